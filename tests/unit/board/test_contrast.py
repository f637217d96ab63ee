"""Text and controls have enough contrast in the light and the dark theme: WCAG 2.2, level AA."""

import re

import pytest

from llm_policy.ledger.alerts import RULES
from tests.import_graph import ROOT

CSS = (ROOT / "tools" / "llmstack" / "board" / "static" / "board.css").read_text()
TEXT, NON_TEXT = 4.5, 3.0  # 1.4.3 and 1.4.11
BACKGROUNDS = ("background", "surface")
PAIRS = [
    *((name, background, TEXT) for name in ("text", "muted", "link", "good", "bad") for background in BACKGROUNDS),
    ("on-link", "link", TEXT),  # the sign-off button
    # Focus rings and borders of controls; the charts' bars and swatches.
    *((name, background, NON_TEXT) for name in ("focus", "muted", "spent", *RULES) for background in BACKGROUNDS),
]


def colours(theme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if theme == "light" else light + dark))


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("name", "background", "minimum"), PAIRS)
def test_the_contrast_is_sufficient(theme, name, background, minimum):
    found = colours(theme)
    lighter, darker = sorted((luminance(found[name]), luminance(found[background])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= minimum


def test_all_colours_are_defined_by_the_themes():
    rules = CSS[CSS.index("* {") :]
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(", rules) == []
