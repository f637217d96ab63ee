"""Exact money arithmetic."""

import pytest

from llm_policy.pricing import Price, nano_usd, nano_usd_per_token, usd


@pytest.mark.parametrize(
    ("usd_per_million", "nano"), [(0.0, 0), (0.001, 1), (0.1, 100), (0.29, 290), (3, 3_000), (1_000_000.0, 10**9)]
)
def test_a_price_is_a_whole_number_of_nano_dollars_per_token(usd_per_million, nano):
    assert nano_usd_per_token(usd_per_million) == nano


@pytest.mark.parametrize("price", [0.0001, 0.1005, 1e-9])
def test_a_price_finer_than_the_allowed_step_is_rejected(price):
    with pytest.raises(ValueError, match=f"^{price} is finer than 0.001 USD per million tokens$"):
        nano_usd_per_token(price)


def test_the_written_decimal_is_used_not_its_binary_value():
    assert nano_usd(0.1) == 100_000_000
    assert nano_usd(0.07) == 70_000_000


def test_an_amount_finer_than_a_nano_dollar_is_rejected():
    with pytest.raises(ValueError, match=r"finer than 0\.000000001 USD"):
        nano_usd(1e-10)


def test_prompt_and_completion_tokens_have_separate_prices():
    assert Price(100, 300).cost(1_000, 10) == 103_000


def test_nano_dollars_convert_to_dollars():
    assert usd(100_000_000) == 0.1
