"""The stand-in for Triton's Python backend has exactly what the models use of it.

`tests/integration/test_triton_backend.py` compares its behaviour with the real one.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from llmstack.paths import MODEL_REPOSITORY, SOURCE_ROOT
from tests import pb_utils


def model_sources() -> Iterator[str]:
    for directory in (SOURCE_ROOT, MODEL_REPOSITORY):
        yield from (path.read_text(encoding="utf-8") for path in Path(directory).rglob("*.py"))


def test_the_stand_in_has_every_name_of_the_module_that_the_models_use_and_no_other():
    used = {name for source in model_sources() for name in re.findall(r"\bpb_utils\.(\w+)", source)}
    assert used == set(pb_utils.NAMES)


def test_the_stand_in_has_the_statuses_that_the_models_use():
    used = {name for source in model_sources() for name in re.findall(r"\b(?:TritonError|error)\.([A-Z_]{4,})", source)}
    assert used == set(pb_utils.STATUSES)
