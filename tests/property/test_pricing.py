"""Properties of money: a cost is an integer ≥ 0, additive in tokens, and never rounded."""

from contextlib import suppress
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from llm_policy.pricing import Price, nano_usd, nano_usd_per_token
from tests.survivors import keep_if, keeps_at_least

COUNTS = st.integers(0, 1_000_000)
# Every price that a manifest may hold, as it is written there.
PRICES = st.integers(0, 10**9).map(lambda thousandths: float(f"{thousandths // 1000}.{thousandths % 1000:03d}"))
PRICE = st.builds(Price, PRICES.map(nano_usd_per_token), PRICES.map(nano_usd_per_token))


@given(PRICE, COUNTS, COUNTS)
def test_cost_is_an_integer_and_never_negative(price, prompt, completion):
    cost = price.cost(prompt, completion)
    assert type(cost) is int
    assert cost >= 0


@given(PRICE, COUNTS, COUNTS, COUNTS, COUNTS)
def test_cost_is_additive_in_tokens(price, prompt, completion, more_prompt, more_completion):
    together = price.cost(prompt + more_prompt, completion + more_completion)
    assert together == price.cost(prompt, completion) + price.cost(more_prompt, more_completion)


@given(PRICES, COUNTS)
def test_a_cost_equals_the_exact_fraction_of_the_price(usd_per_million, count):
    exact = Fraction(repr(usd_per_million)) * count / 1_000_000
    assert Fraction(Price(nano_usd_per_token(usd_per_million), 0).cost(count, 0), 10**9) == exact


@given(st.integers(0, 10**12))
def test_dollars_with_nine_decimals_convert_exactly(nano):
    assert nano_usd(float(f"{nano // 10**9}.{nano % 10**9:09d}")) == nano


@keeps_at_least(0.25)
@given(st.floats(0, 1_000_000) | PRICES)
def test_any_price_is_converted_exactly_or_rejected(usd_per_million):
    nano = None
    with suppress(ValueError):
        nano = nano_usd_per_token(usd_per_million)
    keep_if(nano is not None)
    assert Fraction(repr(usd_per_million)) * 1_000 == nano
