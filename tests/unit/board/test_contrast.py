"""Text and controls can be told from what they stand on, in light and in dark: WCAG 2.2, level AA."""

import re

import pytest

from llm_policy.ledger.alerts import RULES
from tests.import_graph import ROOT

CSS = (ROOT / "tools" / "llmstack" / "board" / "static" / "board.css").read_text()
TEXT, NO_TEXT = 4.5, 3.0  # 1.4.3 and 1.4.11
GROUNDS = ("ground", "raised")
PAIRS = [
    *((name, ground, TEXT) for name in ("text", "quiet", "link", "good", "bad") for ground in GROUNDS),
    ("on-link", "link", TEXT),  # the button that signs
    *((name, ground, NO_TEXT) for name in ("focus", "quiet") for ground in GROUNDS),  # focus rings, borders of controls
    *((rule, ground, NO_TEXT) for rule in RULES for ground in GROUNDS),  # the chart's bars, their swatches
]


def colours(theme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if theme == "light" else light + dark))


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("name", "ground", "least"), PAIRS)
def test_contrast(theme, name, ground, least):
    found = colours(theme)
    lighter, darker = sorted((luminance(found[name]), luminance(found[ground])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= least


def test_no_colour_stands_outside_the_two_themes():
    rules = CSS[CSS.index("* {") :]
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(", rules) == []
