"""What the examples of generate_json talk about: domains with fields, and the sentences that state them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from embedded_model.words import Words

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


def _named(after: str) -> Kind:
    """A thing's name and a word after it, as companies have it."""
    return _text(lambda words: f"{words.thing().capitalize()} {after}")


DAY = Kind({"type": "string", "format": "date"}, _text(Words.day).draw)
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
                "{order_id} is an order by {customer}.",
                "The customer {customer} has the order number {order_id}.",
            ),
            (
                "The customer wants {quantity} of the {product}.",
                "{quantity} x {product}.",
                "It asks for {quantity} pieces: {product}.",
                "They ordered {quantity} of this: {product}.",
                "{product}: {quantity} pieces.",
            ),
            (
                "Each costs {unit_price} dollars.",
                "The unit price is {unit_price}.",
                "One is {unit_price} dollars.",
                "At {unit_price} dollars apiece.",
            ),
            (
                "It is {status} now.",
                "The status is {status}.",
                "Right now the parcel is {status}.",
                "Status: {status}.",
                "The order has been {status}.",
            ),
            ("Its priority is {priority}.", "Treat it with {priority} priority.", "Priority: {priority}."),
            (
                "It goes to {city}.",
                "Deliver to {city}.",
                "The parcel leaves for {city}.",
                "The address is in {city}.",
                "Ship it to {city}.",
            ),
            (
                "It was ordered on {ordered_on}.",
                "The date of the order is {ordered_on}.",
                "They placed it on {ordered_on}.",
            ),
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
            (
                "Ticket {ticket_id} was opened by {reporter}.",
                "{reporter} reported {ticket_id}.",
                "{reporter} is the reporter of {ticket_id}.",
                "We got {ticket_id} from {reporter}.",
            ),
            (
                "{assignee} works on it.",
                "It is assigned to {assignee}.",
                "The one to fix it is {assignee}.",
                "{assignee} takes care of it.",
            ),
            (
                "The {component} fails.",
                "Something is wrong with the {component}.",
                "Affected component: {component}.",
                "The {component} no longer works.",
            ),
            ("The severity is {severity}.", "It counts as {severity}.", "Severity: {severity}."),
            ("It was opened on {opened_on}.", "We have known of it since {opened_on}."),
            ("{num_users} users are affected.", "It hits {num_users} people.", "Number of users: {num_users}."),
            ("{reproducible}",),
            ("Labels: {labels}.", "It is labelled {labels}.", "Its labels are {labels}."),
        ),
    ),
    Domain(
        "person",
        {
            "name": PERSON,
            "age": _integer(18, 99),
            "city": PLACE,
            "birthplace": PLACE,
            "employer": _named("Ltd"),
            "joined_on": DAY,
            "employee_id": _code("EMP", 4),
            "remote": _flag("Remote work is agreed.", "Remote work is not possible."),
            "hobbies": _list(Words.thing),
        },
        (
            (
                "{name} is {age} years old.",
                "Meet {name}, aged {age}.",
                "This is about {name}, {age}.",
                "{name}, {age} years of age, is one of us.",
            ),
            ("Home is {city}.", "The address is in {city}.", "Now living in {city}.", "Lives in {city}."),
            ("Born in {birthplace}.", "The birthplace is {birthplace}.", "Comes from {birthplace}."),
            ("The employer is {employer}.", "Works for {employer}.", "On the payroll of {employer}."),
            ("The contract began on {joined_on}.", "Joined on {joined_on}.", "First day at work: {joined_on}."),
            ("The badge says {employee_id}.", "Employee number {employee_id}.", "The employee id is {employee_id}."),
            ("{remote}",),
            ("Hobbies: {hobbies}.", "Likes {hobbies}.", "In the free time: {hobbies}."),
        ),
    ),
    Domain(
        "invoice",
        {
            "invoice_id": _code("INV", 6),
            "supplier": _named("GmbH"),
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
            (
                "Invoice {invoice_id} is from {supplier}.",
                "{supplier} sent invoice {invoice_id}.",
                "We owe {supplier} for {invoice_id}.",
                "Invoice number {invoice_id}, supplier {supplier}.",
            ),
            (
                "The total is {total} {currency}.",
                "It amounts to {total} {currency}.",
                "{total} {currency} in total.",
                "The sum is {currency} {total}.",
            ),
            ("That includes {tax} of tax.", "The tax is {tax}.", "Tax: {tax}."),
            ("It was issued on {issued_on}.", "Issue date: {issued_on}.", "It is dated {issued_on}."),
            ("Payment is due on {due_on}.", "It must be paid by {due_on}.", "Due date: {due_on}."),
            ("Ask {contact} about it.", "The contact is {contact}.", "{contact} knows more about it."),
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
            (
                "The {title} takes place in {venue}.",
                "{venue} hosts the {title}.",
                "Welcome to the {title} in {venue}.",
                "The {title} is held in {venue}.",
            ),
            ("It starts on {starts_on}.", "Doors open on {starts_on}.", "It begins on {starts_on}."),
            ("It ends on {ends_on}.", "The last day is {ends_on}.", "It closes on {ends_on}."),
            ("{organiser} organises it.", "The organiser is {organiser}.", "It is organised by {organiser}."),
            ("There are {num_seats} seats.", "It holds {num_seats} people."),
            ("The fee is {fee} euros.", "A seat costs {fee} euros.", "Fee: {fee} euros."),
            ("The format is {format}.", "It is an {format} event."),
            ("{sold_out}",),
            ("Topics: {topics}.", "It is about {topics}.", "The talks are on {topics}."),
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
            (
                "Shipment {tracking_id} is on its way.",
                "The tracking number is {tracking_id}.",
                "Track it as {tracking_id}.",
            ),
            (
                "{sender} sent it to {recipient}.",
                "It goes from {sender} to {recipient}.",
                "Sender: {sender}. Recipient: {recipient}.",
                "{recipient} gets it from {sender}.",
            ),
            (
                "It left {origin} for {destination}.",
                "The route is {origin} to {destination}.",
                "From {origin} it travels to {destination}.",
            ),
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
            (
                "Booking {reference} is for {guest}.",
                "{guest} has booked under {reference}.",
                "The guest {guest} has the reference {reference}.",
            ),
            ("The house is {hotel}.", "They stay at {hotel}.", "The hotel is called {hotel}."),
            ("The room is number {room}.", "Room {room} is reserved.", "They sleep in room {room}."),
            ("Arrival is on {arrival}.", "They arrive on {arrival}."),
            ("Departure is on {departure}.", "They leave on {departure}."),
            ("{num_guests} guests are expected.", "The number of guests is {num_guests}."),
            ("A night costs {rate} dollars.", "The rate is {rate} dollars.", "They pay {rate} dollars a night."),
            ("Board: {board}.", "The board is {board}."),
            ("{cancelled}",),
        ),
    ),
    Domain(
        "vehicle",
        {
            "plate": _code("CAR", 4),
            "driver": PERSON,
            "model": _named("Motors"),
            "mileage_km": _integer(1, 9_999),
            "fuel": _choice("petrol", "diesel", "electric"),
            "depot": PLACE,
            "inspected_on": DAY,
            "daily_rate": _amount(400),
            "available": _flag("It is available.", "It is not available."),
            "extras": _list(Words.thing),
        },
        (
            ("Vehicle {plate} is a {model}.", "The {model} has the plate {plate}.", "{plate}, a {model}."),
            ("{driver} drives it.", "The driver is {driver}.", "It was given to {driver}."),
            ("It has run {mileage_km} km.", "The mileage is {mileage_km} km."),
            ("The fuel is {fuel}.", "It runs on {fuel} power."),
            ("It stands in {depot}.", "Its depot is in {depot}."),
            ("It was inspected on {inspected_on}.", "Last inspection: {inspected_on}."),
            ("A day costs {daily_rate} dollars.", "The daily rate is {daily_rate} dollars."),
            ("{available}",),
            ("Extras: {extras}.", "It comes with {extras}."),
        ),
    ),
    Domain(
        "meeting",
        {
            "subject": THING,
            "chair": PERSON,
            "minutes_by": PERSON,
            "site": PLACE,
            "held_on": DAY,
            "next_on": DAY,
            "num_attendees": _integer(2, 400),
            "duration_min": _integer(10, 480),
            "mode": _choice("remote", "in person", "mixed"),
            "approved": _flag("The minutes are approved.", "The minutes are not approved yet."),
            "agenda": _list(Words.thing),
        },
        (
            ("The meeting was about the {subject}.", "Subject: {subject}.", "They talked about the {subject}."),
            ("{chair} was in the chair.", "It was chaired by {chair}.", "The chair was {chair}."),
            ("{minutes_by} wrote the minutes.", "The minutes are by {minutes_by}."),
            ("They met in {site}.", "The site was {site}."),
            ("It was held on {held_on}.", "The date of the meeting was {held_on}."),
            ("The next one is on {next_on}.", "They will meet again on {next_on}."),
            ("{num_attendees} people came.", "Attendees: {num_attendees}."),
            ("It took {duration_min} minutes.", "After {duration_min} minutes it was over."),
            ("The mode was {mode}.", "It took place {mode}."),
            ("{approved}",),
            ("On the agenda: {agenda}.", "The agenda was {agenda}."),
        ),
    ),
    Domain(
        "subscription",
        {
            "contract": _code("SUB", 5),
            "subscriber": PERSON,
            "plan": _choice("basic", "plus", "premium"),
            "monthly_fee": _amount(200),
            "started_on": DAY,
            "renews_on": DAY,
            "num_devices": _integer(1, 50),
            "region": PLACE,
            "auto_renew": _flag("It renews by itself.", "It doesn't renew by itself."),
            "add_ons": _list(Words.thing),
        },
        (
            ("{subscriber} holds contract {contract}.", "Contract {contract} belongs to {subscriber}."),
            ("The plan is {plan}.", "It is the {plan} plan."),
            ("A month costs {monthly_fee} euros.", "The monthly fee is {monthly_fee} euros."),
            ("It started on {started_on}.", "It has run since {started_on}."),
            ("It renews on {renews_on}.", "The next renewal is on {renews_on}."),
            ("It covers {num_devices} devices.", "{num_devices} devices may be used."),
            ("The region is {region}.", "It is valid in {region}."),
            ("{auto_renew}",),
            ("Add-ons: {add_ons}.", "They added {add_ons}."),
        ),
    ),
    Domain(
        "vacancy",
        {
            "vacancy_id": _code("JOB", 4),
            "employer": _named("Ltd"),
            "recruiter": PERSON,
            "location": PLACE,
            "salary": _integer(100, 9_999),
            "hours": _integer(10, 45),
            "level": _choice("junior", "senior", "lead"),
            "apply_by": DAY,
            "travel": _flag("Travel is required.", "No travel is required."),
            "skills": _list(Words.thing),
        },
        (
            ("{employer} offers the job {vacancy_id}.", "Vacancy {vacancy_id} is with {employer}."),
            ("{recruiter} answers questions.", "The recruiter is {recruiter}."),
            ("The place of work is {location}.", "Work is in {location}."),
            ("It pays {salary} dollars a month.", "The salary is {salary} dollars."),
            ("The week has {hours} hours.", "Hours: {hours}."),
            ("The level is {level}.", "We look for a {level} colleague."),
            ("Apply by {apply_by}.", "Applications are open until {apply_by}."),
            ("{travel}",),
            ("Skills: {skills}.", "You know about {skills}."),
        ),
    ),
    Domain(
        "claim",
        {
            "claim_id": _code("CLM", 6),
            "insured": PERSON,
            "adjuster": PERSON,
            "item": THING,
            "damage": _amount(5_000),
            "excess": _amount(500),
            "happened_on": DAY,
            "scene": PLACE,
            "cause": _choice("fire", "theft", "water", "storm"),
            "settled": _flag("The claim is settled.", "The claim is still open."),
        },
        (
            ("{insured} made claim {claim_id}.", "Claim {claim_id} comes from {insured}."),
            ("{adjuster} looks into it.", "The adjuster is {adjuster}."),
            ("It concerns the {item}.", "The {item} was damaged.", "Damaged item: {item}."),
            ("The damage is {damage} dollars.", "The loss comes to {damage} dollars."),
            ("The excess is {excess} dollars.", "Of that {excess} dollars are not covered."),
            ("It happened on {happened_on}.", "The date of the loss is {happened_on}."),
            ("It happened in {scene}.", "The scene is {scene}."),
            ("The cause was {cause}.", "Cause: {cause}."),
            ("{settled}",),
        ),
    ),
)

# Domains that training never shows: the evaluation asks with them how the model does with what it doesn't know.
UNFAMILIAR_DOMAINS = (
    Domain(
        "animal",
        {
            "chip": _code("CHP", 5),
            "owner": PERSON,
            "vet": PERSON,
            "species": _choice("cat", "dog", "rabbit"),
            "born_on": DAY,
            "weight_kg": _amount(60),
            "num_visits": _integer(1, 300),
            "clinic": PLACE,
            "vaccinated": _flag("All shots were given.", "The shots are missing."),
        },
        (
            ("{owner} keeps the animal with chip {chip}.", "Chip {chip}, looked after by {owner}."),
            ("{vet} treats it.", "It sees {vet} when it is ill."),
            ("It belongs to the species {species}.", "We have a {species} here."),
            ("It was born on {born_on}.", "Its life began on {born_on}."),
            ("On the scales: {weight_kg} kg.", "It weighs in at {weight_kg} kg."),
            ("It has been seen {num_visits} times.", "So far {num_visits} visits were counted."),
            ("The clinic lies in {clinic}.", "They always go to {clinic}."),
            ("{vaccinated}",),
        ),
    ),
    Domain(
        "painting",
        {
            "lot": _code("LOT", 4),
            "painter": PERSON,
            "motif": THING,
            "estimate": _amount(5_000),
            "width_mm": _integer(100, 3_000),
            "painted_in": PLACE,
            "auctioned_on": DAY,
            "technique": _choice("oil", "ink", "chalk"),
            "framed": _flag("A frame is part of it.", "There is no frame."),
        },
        (
            ("Lot {lot} shows a {motif}.", "A {motif} can be seen on lot {lot}."),
            ("The brush was held by {painter}.", "{painter} signed it."),
            ("Experts think of {estimate} dollars.", "It is put at {estimate} dollars."),
            ("It is {width_mm} mm wide.", "From left to right one measures {width_mm} mm."),
            ("It came into being in {painted_in}.", "The studio stood in {painted_in}."),
            ("It goes under the hammer on {auctioned_on}.", "Bids are taken on {auctioned_on}."),
            ("It is done in {technique}.", "The hand worked with {technique}."),
            ("{framed}",),
        ),
    ),
)

_UNITS = ("", "", " dollars", " km", " kg", " pieces", " percent")


def free_domain(words: Words) -> Domain:
    """A domain of made-up fields, whose names are the only way to tell what belongs where."""
    labels = {words.label() for _ in range(words.random.randint(3, 8))}
    fields: dict[str, Kind] = {}
    sentences = []
    for label in sorted(labels):
        name, kind, stated = _free_field(label, words)
        fields[name] = kind
        sentences.append(tuple(sentence.replace("{}", f"{{{name}}}") for sentence in stated))
    return Domain("free", fields, tuple(sentences))


def _free_field(label: str, words: Words) -> tuple[str, Kind, tuple[str, ...]]:
    """(name, kind, sentences that state it) of a field that is called `label`."""
    choose, plain, title = words.random, label.replace(" ", "_"), label.capitalize()
    says = (f"The {label} is {{}}.", f"{title}: {{}}.", f"As to the {label}, it is {{}}.")
    match choose.randrange(8):
        case 0:
            return f"{plain}_id", _free_code(words), (f"The {label} has the number {{}}.", f"{title} {{}}.")
        case 1:
            on = (f"The {label} was on {{}}.", f"{title} date: {{}}.", f"The {label} is due on {{}}.")
            return f"{plain}_{choose.choice(('on', 'date'))}", DAY, on
        case 2:
            counts = (f"There are {{}} of the {label}.", f"{title} count: {{}}.")
            return f"num_{plain}", _integer(1, choose.choice((99, 999, 9_999))), counts
        case 3:
            unit = choose.choice(_UNITS)
            return (
                plain,
                _amount(choose.choice((90, 900, 5_000))),
                tuple(say.replace("{}", "{}" + unit) for say in says),
            )
        case 4:
            return f"has_{plain}", _flag(f"It has a {label}.", f"It has no {label}."), ("{}",)
        case 5:
            options = sorted({words.thing() for _ in range(choose.randint(2, 5))})
            return plain, _choice(*options), says
        case 6:
            return f"{plain}_list", _list(Words.thing), (f"{title} list: {{}}.", f"Under {label}: {{}}.")
        case _:
            return plain, choose.choice((PERSON, PLACE, THING)), says


def _free_code(words: Words) -> Kind:
    prefix = "".join(words.random.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(words.random.randint(2, 4)))
    return _code(prefix, words.random.randint(3, 6))
