"""What the examples of generate_json talk about: domains with fields, and the sentences that state them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llmstack.embedded.words import Words

Value = str | int | float | bool | list[str] | None


class Kind(NamedTuple):
    """A kind of field: its JSON schema, and how to draw (value, how a sentence states it)."""

    schema: dict[str, Any]
    draw: Callable[[Words], tuple[Value, str]]


def _text(draw: Callable[[Words], str]) -> Kind:
    def both(words: Words) -> tuple[Value, str]:
        text = draw(words)
        return text, text

    return Kind({"type": "string"}, both)


def _code(prefix: str, num_digits: int) -> Kind:
    def both(words: Words) -> tuple[Value, str]:
        code = words.code(prefix, num_digits)
        return code, code

    return Kind({"type": "string", "pattern": f"^{prefix}-[0-9]{{{num_digits}}}$"}, both)


def _choice(*options: str) -> Kind:
    def both(words: Words) -> tuple[Value, str]:
        option = words.random.choice(options)
        return option, option

    return Kind({"enum": list(options)}, both)


def _integer(least: int, most: int) -> Kind:
    def both(words: Words) -> tuple[Value, str]:
        number = words.number(least, most)
        return number, str(number)

    return Kind({"type": "integer", "minimum": least, "maximum": most}, both)


def _amount(most: int) -> Kind:
    def both(words: Words) -> tuple[Value, str]:
        text = words.cents(most)
        return float(text), text

    return Kind({"type": "number", "minimum": 0}, both)


def _flag(yes: str, no: str) -> Kind:
    """A boolean, stated by one of two phrases."""

    def both(words: Words) -> tuple[Value, str]:
        value = words.random.random() < 0.5
        return value, yes if value else no

    return Kind({"type": "boolean"}, both)


def _list(draw: Callable[[Words], str]) -> Kind:
    def both(words: Words) -> tuple[Value, str]:
        texts = [draw(words) for _ in range(words.random.randint(1, 4))]
        stated = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
        return list(texts), stated

    return Kind({"type": "array", "items": {"type": "string"}}, both)


def _title(words: Words) -> str:
    return f"{words.thing().capitalize()} {words.random.choice(('Day', 'Fair', 'Summit'))}"


def _day(words: Words) -> str:
    return words.day()


DAY = Kind({"type": "string", "format": "date"}, _text(_day).draw)
PERSON, PLACE, THING = _text(Words.person), _text(Words.place), _text(Words.thing)


class Domain(NamedTuple):
    """Fields by name, and groups of sentences: one sentence of each group states that group's fields."""

    name: str
    fields: dict[str, Kind]
    sentences: tuple[tuple[str, ...], ...]


DOMAINS = (
    Domain(
        "order",
        {
            "order_id": _code("ORD", 4),
            "customer": PERSON,
            "product": THING,
            "quantity": _integer(1, 99),
            "unit_price": _amount(500),
            "status": _choice("pending", "packed", "shipped", "delivered", "cancelled"),
            "priority": _choice("low", "normal", "high"),
            "city": PLACE,
            "ordered_on": DAY,
            "gift": _flag("It is a gift.", "It is not a gift."),
        },
        (
            (
                "Order {order_id} came from {customer}.",
                "{customer} placed order {order_id}.",
                "We got {order_id} from {customer}.",
            ),
            (
                "The customer wants {quantity} of the {product}.",
                "{quantity} x {product}.",
                "It asks for {quantity} pieces: {product}.",
            ),
            ("Each costs {unit_price} dollars.", "The unit price is {unit_price}.", "One is {unit_price} dollars."),
            ("It is {status} now.", "The status is {status}.", "Right now the parcel is {status}."),
            ("Its priority is {priority}.", "Treat it with {priority} priority."),
            ("It goes to {city}.", "Deliver to {city}.", "The parcel leaves for {city}."),
            ("It was ordered on {ordered_on}.", "The date of the order is {ordered_on}."),
            ("{gift}",),
        ),
    ),
    Domain(
        "ticket",
        {
            "ticket_id": _code("TCK", 5),
            "reporter": PERSON,
            "assignee": PERSON,
            "component": THING,
            "severity": _choice("minor", "major", "critical"),
            "opened_on": DAY,
            "num_users": _integer(1, 900),
            "reproducible": _flag("It can be reproduced.", "It can't be reproduced."),
            "labels": _list(Words.thing),
        },
        (
            ("Ticket {ticket_id} was opened by {reporter}.", "{reporter} reported {ticket_id}."),
            ("{assignee} works on it.", "It is assigned to {assignee}.", "The one to fix it is {assignee}."),
            ("The {component} fails.", "Something is wrong with the {component}.", "Affected component: {component}."),
            ("The severity is {severity}.", "It counts as {severity}."),
            ("It was opened on {opened_on}.", "We have known of it since {opened_on}."),
            ("{num_users} users are affected.", "It hits {num_users} people."),
            ("{reproducible}",),
            ("Labels: {labels}.", "It is labelled {labels}."),
        ),
    ),
    Domain(
        "person",
        {
            "name": PERSON,
            "age": _integer(18, 99),
            "city": PLACE,
            "birthplace": PLACE,
            "employer": _text(lambda words: f"{words.thing().capitalize()} Ltd"),
            "joined_on": DAY,
            "employee_id": _code("EMP", 4),
            "remote": _flag("Remote work is agreed.", "Remote work is not possible."),
            "hobbies": _list(Words.thing),
        },
        (
            ("{name} is {age} years old.", "Meet {name}, aged {age}.", "This is about {name}, {age}."),
            ("Home is {city}.", "The address is in {city}.", "Now living in {city}."),
            ("Born in {birthplace}.", "The birthplace is {birthplace}."),
            ("The employer is {employer}.", "Works for {employer}."),
            ("The contract began on {joined_on}.", "Joined on {joined_on}."),
            ("The badge says {employee_id}.", "Employee number {employee_id}."),
            ("{remote}",),
            ("Hobbies: {hobbies}.", "Likes {hobbies}."),
        ),
    ),
    Domain(
        "invoice",
        {
            "invoice_id": _code("INV", 6),
            "supplier": _text(lambda words: f"{words.thing().capitalize()} GmbH"),
            "total": _amount(5_000),
            "tax": _amount(900),
            "currency": _choice("EUR", "USD", "GBP", "CHF"),
            "issued_on": DAY,
            "due_on": DAY,
            "contact": PERSON,
            "paid": _flag("It has been paid.", "It has not been paid."),
            "num_positions": _integer(1, 40),
        },
        (
            ("Invoice {invoice_id} is from {supplier}.", "{supplier} sent invoice {invoice_id}."),
            ("The total is {total} {currency}.", "It amounts to {total} {currency}."),
            ("That includes {tax} of tax.", "The tax is {tax}."),
            ("It was issued on {issued_on}.", "Issue date: {issued_on}."),
            ("Payment is due on {due_on}.", "It must be paid by {due_on}."),
            ("Ask {contact} about it.", "The contact is {contact}."),
            ("{paid}",),
            ("It has {num_positions} positions.", "{num_positions} positions are listed."),
        ),
    ),
    Domain(
        "event",
        {
            "title": _text(
                lambda words: f"{words.thing().capitalize()} {words.random.choice(('Day', 'Fair', 'Summit'))}"
            ),
            "venue": PLACE,
            "starts_on": DAY,
            "ends_on": DAY,
            "organiser": PERSON,
            "num_seats": _integer(10, 9_000),
            "fee": _amount(300),
            "format": _choice("online", "hybrid", "on-site"),
            "sold_out": _flag("It is sold out.", "Seats are still free."),
            "topics": _list(Words.thing),
        },
        (
            ("The {title} takes place in {venue}.", "{venue} hosts the {title}."),
            ("It starts on {starts_on}.", "Doors open on {starts_on}."),
            ("It ends on {ends_on}.", "The last day is {ends_on}."),
            ("{organiser} organises it.", "The organiser is {organiser}."),
            ("There are {num_seats} seats.", "It holds {num_seats} people."),
            ("The fee is {fee} euros.", "A seat costs {fee} euros."),
            ("The format is {format}.", "It is an {format} event."),
            ("{sold_out}",),
            ("Topics: {topics}.", "It is about {topics}."),
        ),
    ),
    Domain(
        "shipment",
        {
            "tracking_id": _code("TRK", 6),
            "sender": PERSON,
            "recipient": PERSON,
            "origin": PLACE,
            "destination": PLACE,
            "weight_kg": _amount(90),
            "num_parcels": _integer(1, 60),
            "carrier": _choice("road", "rail", "air", "sea"),
            "fragile": _flag("Handle with care, it is fragile.", "Nothing in it is fragile."),
            "contents": _list(Words.thing),
        },
        (
            ("Shipment {tracking_id} is on its way.", "The tracking number is {tracking_id}."),
            ("{sender} sent it to {recipient}.", "It goes from {sender} to {recipient}."),
            ("It left {origin} for {destination}.", "The route is {origin} to {destination}."),
            ("It weighs {weight_kg} kg.", "Weight: {weight_kg} kg."),
            ("There are {num_parcels} parcels.", "It comes as {num_parcels} parcels."),
            ("It travels by {carrier}.", "The carrier uses {carrier}."),
            ("{fragile}",),
            ("Inside: {contents}.", "It contains {contents}."),
        ),
    ),
    Domain(
        "booking",
        {
            "reference": _code("BKG", 5),
            "guest": PERSON,
            "hotel": _text(lambda words: f"Hotel {words.place()}"),
            "room": _integer(1, 999),
            "arrival": DAY,
            "departure": DAY,
            "num_guests": _integer(1, 9),
            "rate": _amount(700),
            "board": _choice("none", "breakfast", "half", "full"),
            "cancelled": _flag("The booking was cancelled.", "The booking stands."),
        },
        (
            ("Booking {reference} is for {guest}.", "{guest} has booked under {reference}."),
            ("The house is {hotel}.", "They stay at {hotel}."),
            ("The room is number {room}.", "Room {room} is reserved."),
            ("Arrival is on {arrival}.", "They arrive on {arrival}."),
            ("Departure is on {departure}.", "They leave on {departure}."),
            ("{num_guests} guests are expected.", "The number of guests is {num_guests}."),
            ("A night costs {rate} dollars.", "The rate is {rate} dollars."),
            ("Board: {board}.", "The board is {board}."),
            ("{cancelled}",),
        ),
    ),
)
