"""Domains of the generate_json examples: orders, tickets and so on, with fields and the sentences that state them."""

from __future__ import annotations

from typing import NamedTuple

from embedded_model.examples.field_types import (
    DATE,
    PERSON,
    PLACE,
    THING,
    FieldType,
    amount,
    choice,
    code,
    flag,
    integer,
    list_of,
    name_with_suffix,
    string,
)
from embedded_model.examples.value_sampler import ValueSampler


class Domain(NamedTuple):
    """Fields by name, and groups of sentences. Any sentence of a group states all fields of that group."""

    name: str
    fields: dict[str, FieldType]
    sentence_groups: tuple[tuple[str, ...], ...]


DOMAINS = (
    Domain(
        "order",
        {
            "order_id": code("ORD", 4),
            "customer": PERSON,
            "product": THING,
            "quantity": integer(1, 99),
            "unit_price": amount(500),
            "status": choice("pending", "packed", "shipped", "delivered", "cancelled"),
            "priority": choice("low", "normal", "high"),
            "city": PLACE,
            "ordered_on": DATE,
            "gift": flag("It is a gift.", "It is not a gift."),
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
            "ticket_id": code("TCK", 5),
            "reporter": PERSON,
            "assignee": PERSON,
            "component": THING,
            "severity": choice("minor", "major", "critical"),
            "opened_on": DATE,
            "num_users": integer(1, 900),
            "reproducible": flag("It can be reproduced.", "It can't be reproduced."),
            "labels": list_of(ValueSampler.thing),
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
            "age": integer(18, 99),
            "city": PLACE,
            "birthplace": PLACE,
            "employer": name_with_suffix("Ltd"),
            "joined_on": DATE,
            "employee_id": code("EMP", 4),
            "remote": flag("Remote work is agreed.", "Remote work is not possible."),
            "hobbies": list_of(ValueSampler.thing),
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
            "invoice_id": code("INV", 6),
            "supplier": name_with_suffix("GmbH"),
            "total": amount(5_000),
            "tax": amount(900),
            "currency": choice("EUR", "USD", "GBP", "CHF"),
            "issued_on": DATE,
            "due_on": DATE,
            "contact": PERSON,
            "paid": flag("It has been paid.", "It has not been paid."),
            "num_positions": integer(1, 40),
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
            "title": string(
                lambda sampler: f"{sampler.thing().capitalize()} {sampler.random.choice(('Day', 'Fair', 'Summit'))}"
            ),
            "venue": PLACE,
            "starts_on": DATE,
            "ends_on": DATE,
            "organiser": PERSON,
            "num_seats": integer(10, 9_000),
            "fee": amount(300),
            "format": choice("online", "hybrid", "on-site"),
            "sold_out": flag("It is sold out.", "Seats are still free."),
            "topics": list_of(ValueSampler.thing),
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
            "tracking_id": code("TRK", 6),
            "sender": PERSON,
            "recipient": PERSON,
            "origin": PLACE,
            "destination": PLACE,
            "weight_kg": amount(90),
            "num_parcels": integer(1, 60),
            "carrier": choice("road", "rail", "air", "sea"),
            "fragile": flag("Handle with care, it is fragile.", "Nothing in it is fragile."),
            "contents": list_of(ValueSampler.thing),
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
            "reference": code("BKG", 5),
            "guest": PERSON,
            "hotel": string(lambda sampler: f"Hotel {sampler.place()}"),
            "room": integer(1, 999),
            "arrival": DATE,
            "departure": DATE,
            "num_guests": integer(1, 9),
            "rate": amount(700),
            "board": choice("none", "breakfast", "half", "full"),
            "cancelled": flag("The booking was cancelled.", "The booking stands."),
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
            "plate": code("CAR", 4),
            "driver": PERSON,
            "model": name_with_suffix("Motors"),
            "mileage_km": integer(1, 9_999),
            "fuel": choice("petrol", "diesel", "electric"),
            "depot": PLACE,
            "inspected_on": DATE,
            "daily_rate": amount(400),
            "available": flag("It is available.", "It is not available."),
            "extras": list_of(ValueSampler.thing),
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
            "held_on": DATE,
            "next_on": DATE,
            "num_attendees": integer(2, 400),
            "duration_min": integer(10, 480),
            "mode": choice("remote", "in person", "mixed"),
            "approved": flag("The minutes are approved.", "The minutes are not approved yet."),
            "agenda": list_of(ValueSampler.thing),
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
            "contract": code("SUB", 5),
            "subscriber": PERSON,
            "plan": choice("basic", "plus", "premium"),
            "monthly_fee": amount(200),
            "started_on": DATE,
            "renews_on": DATE,
            "num_devices": integer(1, 50),
            "region": PLACE,
            "auto_renew": flag("It renews by itself.", "It doesn't renew by itself."),
            "add_ons": list_of(ValueSampler.thing),
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
            "vacancy_id": code("JOB", 4),
            "employer": name_with_suffix("Ltd"),
            "recruiter": PERSON,
            "location": PLACE,
            "salary": integer(100, 9_999),
            "hours": integer(10, 45),
            "level": choice("junior", "senior", "lead"),
            "apply_by": DATE,
            "travel": flag("Travel is required.", "No travel is required."),
            "skills": list_of(ValueSampler.thing),
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
            "claim_id": code("CLM", 6),
            "insured": PERSON,
            "adjuster": PERSON,
            "item": THING,
            "damage": amount(5_000),
            "excess": amount(500),
            "happened_on": DATE,
            "scene": PLACE,
            "cause": choice("fire", "theft", "water", "storm"),
            "settled": flag("The claim is settled.", "The claim is still open."),
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

# Only for the out-of-distribution evaluation: training never uses them.
OUT_OF_DISTRIBUTION_DOMAINS = (
    Domain(
        "animal",
        {
            "chip": code("CHP", 5),
            "owner": PERSON,
            "vet": PERSON,
            "species": choice("cat", "dog", "rabbit"),
            "born_on": DATE,
            "weight_kg": amount(60),
            "num_visits": integer(1, 300),
            "clinic": PLACE,
            "vaccinated": flag("All shots were given.", "The shots are missing."),
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
            "lot": code("LOT", 4),
            "painter": PERSON,
            "motif": THING,
            "estimate": amount(5_000),
            "width_mm": integer(100, 3_000),
            "painted_in": PLACE,
            "auctioned_on": DATE,
            "technique": choice("oil", "ink", "chalk"),
            "framed": flag("A frame is part of it.", "There is no frame."),
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


def random_domain(sampler: ValueSampler) -> Domain:
    """A domain of random fields, where only a field's name shows which value belongs to it."""
    labels = {sampler.label() for _ in range(sampler.random.randint(3, 8))}
    fields: dict[str, FieldType] = {}
    sentence_groups = []
    for label in sorted(labels):
        name, field_type, sentences = _random_field(label, sampler)
        fields[name] = field_type
        sentence_groups.append(tuple(sentence.replace("{}", f"{{{name}}}") for sentence in sentences))
    return Domain("free", fields, tuple(sentence_groups))


def _random_field(label: str, sampler: ValueSampler) -> tuple[str, FieldType, tuple[str, ...]]:
    """(name, type, sentences that state it) of a field with this label."""
    rng, name, title = sampler.random, label.replace(" ", "_"), label.capitalize()
    sentences = (f"The {label} is {{}}.", f"{title}: {{}}.", f"As to the {label}, it is {{}}.")
    match rng.randrange(8):
        case 0:
            return f"{name}_id", _random_code(sampler), (f"The {label} has the number {{}}.", f"{title} {{}}.")
        case 1:
            dates = (f"The {label} was on {{}}.", f"{title} date: {{}}.", f"The {label} is due on {{}}.")
            return f"{name}_{rng.choice(('on', 'date'))}", DATE, dates
        case 2:
            counts = (f"There are {{}} of the {label}.", f"{title} count: {{}}.")
            return f"num_{name}", integer(1, rng.choice((99, 999, 9_999))), counts
        case 3:
            unit = rng.choice(_UNITS)
            field_type = amount(rng.choice((90, 900, 5_000)))
            return name, field_type, tuple(sentence.replace("{}", "{}" + unit) for sentence in sentences)
        case 4:
            return f"has_{name}", flag(f"It has a {label}.", f"It has no {label}."), ("{}",)
        case 5:
            options = sorted({sampler.thing() for _ in range(rng.randint(2, 5))})
            return name, choice(*options), sentences
        case 6:
            return f"{name}_list", list_of(ValueSampler.thing), (f"{title} list: {{}}.", f"Under {label}: {{}}.")
        case _:
            return name, rng.choice((PERSON, PLACE, THING)), sentences


def _random_code(sampler: ValueSampler) -> FieldType:
    prefix = "".join(sampler.random.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(sampler.random.randint(2, 4)))
    return code(prefix, sampler.random.randint(3, 6))
