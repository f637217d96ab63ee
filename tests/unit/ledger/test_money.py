import pytest

from llmstack.ledger.money import dollar_text


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [(0, "0.000000000"), (1, "0.000000001"), (-1, "-0.000000001"), (10**18 + 62_000, "1000000000.000062000")],
)
def test_money_is_formatted_without_rounding(nano_usd, text):
    assert dollar_text(nano_usd) == text
