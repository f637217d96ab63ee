"""The page of Triton's API names every header, parameter and input that the policy has."""

import re

import pytest

from llm_policy.rules.headers import CLIENT_HEADERS
from llm_policy.rules.parameters import TRITON_PARAMETERS, TRITON_PREFIX
from llm_policy.rules.row_input import INPUT_NAMES
from tests.import_graph import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ALWAYS_ON = {"return_num_input_tokens", "return_num_output_tokens", "return_perf_metrics"}


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("name", CLIENT_HEADERS)
def test_every_header_of_a_client_is_in_the_table_of_headers(name):
    assert re.search(rf"^\|[^|]*`{name}[`:]", section("Headers"), re.MULTILINE)


@pytest.mark.parametrize("name", sorted([*TRITON_PARAMETERS, TRITON_PREFIX]))
def test_every_parameter_of_triton_is_named(name):
    assert f"`{name}`" in section("Parameters")


@pytest.mark.parametrize("name", sorted({*INPUT_NAMES} - ALWAYS_ON))
def test_every_input_is_named(name):
    assert f"`{name}`" in section("Inputs")
