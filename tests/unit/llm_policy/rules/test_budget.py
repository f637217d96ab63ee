"""Token and cost budgets."""

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.ledger.row_record import RowRecord
from llm_policy.release.manifest import Task
from llm_policy.rules.budget import Budget
from tests.manifests import manifest

BUDGET = Budget(manifest())
COSTLY = RowRecord(num_prompt_tokens=1_000, max_completion_tokens=1_000, projected_nano_usd=200_000_000)


def test_a_prompt_at_the_limit_passes():
    BUDGET.check_prompt(4_096)


def test_a_prompt_over_the_limit_is_rejected_with_limit_and_count():
    with pytest.raises(InvalidRequest) as caught:
        BUDGET.check_prompt(5_120)
    assert str(caught.value) == "token_budget_overrun: prompt has 5120 tokens, limit 4096 (max_prompt_tokens)"


def test_a_lower_bound_of_the_prompts_length_is_reported_as_such():
    with pytest.raises(InvalidRequest) as caught:
        BUDGET.check_prompt(4_097, at_least=True)
    assert str(caught.value) == "token_budget_overrun: prompt has at least 4097 tokens, limit 4096 (max_prompt_tokens)"


def test_without_max_tokens_a_request_gets_the_remaining_budget():
    assert BUDGET.completion_limit(1_000, None, None) == 5_000


def test_without_max_tokens_the_tasks_default_applies():
    assert BUDGET.completion_limit(1_000, None, Task(temperature=0.0, max_tokens=200)) == 200


def test_the_tasks_default_never_exceeds_the_remaining_budget():
    assert BUDGET.completion_limit(4_096, None, Task(temperature=0.0, max_tokens=9_000)) == 1_904


def test_prompt_and_completion_together_may_fill_the_budget():
    assert BUDGET.completion_limit(4_000, 2_000, None) == 2_000


def test_prompt_and_completion_over_the_budget_are_rejected():
    with pytest.raises(InvalidRequest) as caught:
        BUDGET.completion_limit(4_000, 2_001, None)
    assert str(caught.value) == (
        "token_budget_overrun: prompt has 4000 tokens and max_tokens is 2001, together 6001, limit 6000 (max_tokens)"
    )


def test_a_completion_of_one_token_is_allowed():
    assert BUDGET.completion_limit(10, 1, None) == 1


@pytest.mark.parametrize("requested", [0, -1, -(2**31)])
def test_a_completion_of_less_than_one_token_is_rejected(requested):
    with pytest.raises(InvalidRequest, match=f"^invalid_input: max_tokens is {requested}, allowed 1 to 5990$"):
        BUDGET.completion_limit(10, requested, None)


def test_notify_admits_a_costly_request():
    costly = Budget(manifest(prices={"input_usd_per_million": 100.0, "output_usd_per_million": 100.0}))
    costly.check_cost(COSTLY)


def test_reject_admits_a_request_that_costs_exactly_the_limit():
    Budget(manifest(on_cost_breach="reject")).check_cost(RowRecord(projected_nano_usd=100_000_000))


def test_reject_rejects_a_request_that_costs_a_nano_dollar_more_than_the_limit():
    record = RowRecord(num_prompt_tokens=7, max_completion_tokens=5, projected_nano_usd=100_000_001)
    with pytest.raises(InvalidRequest) as caught:
        Budget(manifest(on_cost_breach="reject")).check_cost(record)
    assert str(caught.value) == (
        "cost_budget_overrun: 7 prompt and up to 5 completion tokens may cost 0.100000001 USD, "
        "limit 0.100000000 USD (max_cost_usd)"
    )


def test_reject_checks_the_worst_case_cost():
    prices = {"input_usd_per_million": 100.0, "output_usd_per_million": 100.0}
    costly = Budget(manifest(prices=prices, on_cost_breach="reject"))
    with pytest.raises(InvalidRequest) as caught:
        costly.check_cost(COSTLY)
    assert str(caught.value) == (
        "cost_budget_overrun: 1000 prompt and up to 1000 completion tokens may cost 0.200000000 USD, "
        "limit 0.100000000 USD (max_cost_usd)"
    )
