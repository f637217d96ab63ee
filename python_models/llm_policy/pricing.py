"""Money in integer nano-dollars, so that sums are exact and cost is additive in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

NANO_USD_PER_USD = 1_000_000_000
# USD per million tokens × 1000 = nano-dollars per token.
_NANO_USD_PER_TOKEN = NANO_USD_PER_USD // 1_000_000


def nano_usd(usd: float) -> int:
    """`usd` in nano-dollars, computed from the shortest decimal that prints as `usd`, not from its binary value.

    Raises:
        ValueError: `usd` is not a whole number of nano-dollars.
    """
    exact = Decimal(repr(usd)) * NANO_USD_PER_USD
    if exact != exact.to_integral_value():
        raise ValueError(f"{usd} is finer than 0.000000001 USD")
    return int(exact)


def nano_usd_per_token(usd_per_million: float) -> int:
    """The price of one token in nano-dollars.

    Raises:
        ValueError: the price is not a whole number of nano-dollars per token (a multiple of 0.001 USD per million), so
            costs would not add up exactly.
    """
    exact = Decimal(repr(usd_per_million)) * _NANO_USD_PER_TOKEN
    if exact != exact.to_integral_value():
        raise ValueError(f"{usd_per_million} is finer than 0.001 USD per million tokens")
    return int(exact)


@dataclass(frozen=True)
class Price:
    """The price of a prompt token and of a completion token, in nano-dollars."""

    input_nano_usd: int
    output_nano_usd: int

    def cost(self, num_prompt_tokens: int, num_completion_tokens: int) -> int:
        """The cost of these tokens in nano-dollars; additive in both counts."""
        return num_prompt_tokens * self.input_nano_usd + num_completion_tokens * self.output_nano_usd


def usd(nano: int) -> float:
    """Nano-dollars as dollars, for messages and for the `cost_usd` tensor."""
    return nano / NANO_USD_PER_USD
