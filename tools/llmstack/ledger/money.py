"""Nano-dollars as exact decimals. The ledger's sums are exact, which floats would not be."""

from __future__ import annotations

from decimal import Decimal

from llm_policy.pricing import NANO_USD_PER_USD

_PLACES = 9


def dollars(nano_usd: int) -> Decimal:
    """US dollars with nine decimal places."""
    return Decimal(nano_usd).scaleb(-_PLACES)


def dollar_text(nano_usd: int) -> str:
    """US dollars as text with nine decimal places: 62,000 becomes `0.000062000`."""
    whole, rest = divmod(abs(nano_usd), NANO_USD_PER_USD)
    return f"{'-' if nano_usd < 0 else ''}{whole}.{rest:0{_PLACES}d}"
