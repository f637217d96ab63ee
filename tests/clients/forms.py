"""What the clients ask for, as pydantic models. Every client's environment has pydantic."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Order(BaseModel):
    """The order that a text tells of."""

    order_id: str = Field(pattern="^ORD-[0-9]{4}$")
    customer: str = Field(max_length=32)
    product: str = Field(max_length=32)
    quantity: int = Field(ge=1, le=99)
    status: Literal["pending", "packed", "shipped", "delivered", "cancelled"]
    gift: bool


class Parcel(BaseModel):
    """A part of the order, without rules about its values: JSON without a schema follows none."""

    product: str
    quantity: int


class Checks(BaseModel):
    """Which of a claim's facts the evidence supports."""

    person: bool
    amount: bool
    date: bool
    place: bool


class Verdict(BaseModel):
    """The judgement of a claim."""

    checks: Checks
    failing_criterion: Literal["person", "amount", "date", "place"] | None
    verdict: Literal["pass", "fail"]
    score: int = Field(ge=0, le=10)
