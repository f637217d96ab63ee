"""The table of `llmstack demo`."""

import io

import pytest
from rich.console import Console

from llmstack.cli import demo
from llmstack.demo.run import OPENAI_SDK, WAYS, CaseResult

ANSWER = '{"order_id":"ORD-4711","customer":"Octavia Lovelace","product":"telescope"}'
FLAGS = ["queue_delay_breach", "schema_violation"]
RESULTS = [
    CaseResult(way, case, ANSWER, 1024, 512, 0.0123456, 123456, FLAGS, "")
    for case in ("rank_candidates", "wrong quantisation")
    for way in (*WAYS, OPENAI_SDK)
]
CODE = "token_budget_overrun: prompt has 5120 tokens"
RESULTS.append(CaseResult("HTTP /infer", "5,000-token prompt", CODE, None, None, None, None, [], ""))


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_digit_code_or_flag_is_cut_at_80_columns_and_more(width):
    output = io.StringIO()
    demo._print_table(RESULTS, Console(file=output, width=width, highlight=False))
    shown = output.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    for number in ("1024 + 512", "12345.6", "123456"):
        assert shown.count(number) == len(RESULTS) - 1
    for whole in ("token_budget_overrun", "queue_delay_breach", "OpenAI", "/generate", "rank_candidates"):
        assert whole in shown
