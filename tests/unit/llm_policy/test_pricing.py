"""Exact money."""

import pytest

from llm_policy.pricing import Price, nano_usd, nano_usd_per_token, usd


@pytest.mark.parametrize(
    ("usd_per_million", "nano"), [(0.0, 0), (0.001, 1), (0.1, 100), (0.29, 290), (3, 3_000), (1_000_000.0, 10**9)]
)
def test_a_price_is_whole_nano_dollars_a_token(usd_per_million, nano):
    assert nano_usd_per_token(usd_per_million) == nano


@pytest.mark.parametrize("price", [0.0001, 0.1005, 1e-9])
def test_a_price_too_fine_is_refused_with_the_step(price):
    with pytest.raises(ValueError, match=f"^{price} is finer than 0.001 USD per million tokens$"):
        nano_usd_per_token(price)


def test_the_decimal_that_was_written_counts_not_its_binary_value():
    assert nano_usd(0.1) == 100_000_000
    assert nano_usd(0.07) == 70_000_000


def test_an_amount_too_fine_is_refused():
    with pytest.raises(ValueError, match=r"finer than 0\.000000001 USD"):
        nano_usd(1e-10)


def test_prompt_and_completion_have_their_own_prices():
    assert Price(100, 300).cost(1_000, 10) == 103_000


def test_dollars_are_the_nano_dollars_over_a_billion():
    assert usd(100_000_000) == 0.1
