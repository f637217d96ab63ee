"""Examples of judge: evidence of a payment, a claim about it, and whether the one supports the other."""

from __future__ import annotations

import random

from embedded_model.example import Example
from embedded_model.wording import Wording
from embedded_model.words import Words

CHECKS = ("person", "amount", "date", "place")
_FACTS = (
    "{person} paid {amount} in {place} on {date}.",
    "On {date} {person} spent {amount} in {place}.",
    "In {place}, {amount} were received from {person} on {date}.",
    "{amount} went to {person} in {place} on {date}.",
    "The {place} office charged {person} {amount} on {date}.",
    "{person} transferred {amount} on {date}, in {place}.",
    "A payment of {amount} by {person} was booked in {place} on {date}.",
    "{place}, {date}: {person} paid {amount}.",
    "On {date}, {amount} were paid by {person} in {place}.",
    "{date}: {amount} from {person}, {place}.",
    "The {place} branch got {amount} from {person} on {date}.",
)
_UNFAMILIAR_FACTS = (
    "It was {date} when {person}, over in {place}, parted with {amount}.",
    "Of {amount}, handed over in {place}, {person} was rid as of {date}.",
)
# Payer and payee are one and the same here: only who took part counts, not which way the money went.
_ASIDES = (
    "The receipt is filed.",
    "It was for the {thing}.",
    "The {thing} came later.",
    "Nobody complained.",
    "The clerk checked the {thing} twice.",
    "A {thing} was part of it.",
    "All agreed on the {thing}.",
    "There is a copy in the archive.",
)
_MONEY = (("{} dollars", "${}", "{} USD"), ("{} euros", "{} EUR", "EUR {}"), ("{} francs",), ("{} pounds", "£{}"))
_WORDING = Wording(
    (
        "Judge whether the evidence supports the claim. Answer with JSON only.",
        "Does the evidence support the claim? Answer with JSON only.",
        "Check the claim against the evidence.",
        "You are a strict judge. Reply only with JSON.",
        "Compare the claim with the evidence and give a verdict.",
        "You are a helpful assistant. Judge the claim.",
        "Is the claim right?",
    ),
    (
        "Evidence: {evidence}\nClaim: {claim}",
        "Claim: {claim}\nEvidence: {evidence}",
        "Evidence:\n{evidence}\n\nClaim:\n{claim}",
        "Claim:\n{claim}\n\nEvidence:\n{evidence}",
        "Evidence: {evidence}\n\nClaim: {claim}",
        "Claim: {claim}\n\nEvidence: {evidence}",
        "Evidence: {evidence} Claim: {claim}",
        "Facts: {evidence}\nStatement: {claim}",
        "Statement: {claim}\nFacts: {evidence}",
        "Source: {evidence}\nClaim: {claim}",
    ),
)
_UNFAMILIAR = Wording(
    ("Somebody said something. Did it happen that way?", "Audit this."),
    ("<file>{evidence}</file>\n<said>{claim}</said>", 'We heard: "{claim}" Our books, however, read: "{evidence}"'),
)
_POINTS_LOST = 3


def judging_example(words: Words, is_familiar: bool = True) -> Example:
    """The next example."""
    choose = words.random
    facts = _draw_facts(words)
    num_wrong = choose.choices((0, 1, 2), (5, 4, 1))[0]
    wrong = set(choose.sample(CHECKS, num_wrong))
    claimed = {check: _other(words, check, fact) if check in wrong else fact for check, fact in facts.items()}
    parts = _state(facts, claimed, words, _FACTS if is_familiar else _UNFAMILIAR_FACTS)
    prompt = (_WORDING if is_familiar else _UNFAMILIAR).prompt(choose, parts)
    answer = {
        "checks": {check: check not in wrong for check in CHECKS},
        "failing_criterion": next((check for check in CHECKS if check in wrong), "none"),
        "verdict": "fail" if wrong else "pass",
        "score": 10 - _POINTS_LOST * len(wrong),
    }
    return Example("judge", prompt.system, prompt.user, answer, is_chat=prompt.is_chat)


def _state(facts: dict[str, str], claimed: dict[str, str], words: Words, sentences: tuple[str, ...]) -> dict[str, str]:
    """The evidence, among asides, and the claim; both write their money in the same currency."""
    choose = words.random
    currency = choose.choice(_MONEY)
    evidence = [_sentence(facts, currency, choose, sentences)]
    for aside in choose.sample(_ASIDES, choose.randint(0, 2)):
        evidence.insert(choose.randint(0, len(evidence)), aside.format(thing=words.thing()))
    return {"evidence": " ".join(evidence), "claim": _sentence(claimed, currency, choose, sentences)}


def _sentence(
    facts: dict[str, str], currency: tuple[str, ...], choose: random.Random, sentences: tuple[str, ...]
) -> str:
    amount = choose.choice(currency).format(facts["amount"])
    return choose.choice(sentences).format_map(facts | {"amount": amount})


def _draw_facts(words: Words) -> dict[str, str]:
    return {"person": words.person(), "amount": words.cents(5_000), "date": words.day(), "place": words.place()}


def _other(words: Words, check: str, fact: str) -> str:
    """A value that differs from `fact`, often in a small part of it, and may stand where `fact` may."""
    while True:
        other = _draw_facts(words)[check]
        if words.random.random() < 0.5:
            if check == "person":
                other = _swap_half(words.random, fact, other)
            elif check == "amount":
                other = words.near_cents(fact)
            elif check == "date":
                other = words.near_day(fact)
        if other != fact:
            return other


def _swap_half(generator: random.Random, fact: str, other: str) -> str:
    """The first name of one with the last name of the other."""
    (first, last), (other_first, other_last) = fact.split(), other.split()
    return generator.choice((f"{first} {other_last}", f"{other_first} {last}"))
