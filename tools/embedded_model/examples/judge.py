"""Examples of judge: evidence of a payment, a claim about it, and whether the evidence supports the claim."""

from __future__ import annotations

import random
from typing import NamedTuple

from embedded_model.examples.example import Example
from embedded_model.examples.prompt_template import PromptTemplate
from embedded_model.examples.value_sampler import ValueSampler

CHECKS = ("person", "amount", "date", "place")


class Format(NamedTuple):
    """Sentences that state a payment, and the template of the prompt."""

    sentences: tuple[str, ...]
    template: PromptTemplate


# {person} is the payer in some sentences and the payee in others: the direction of the payment isn't judged.
_SENTENCES = (
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
_OUT_OF_DISTRIBUTION_SENTENCES = (
    "It was {date} when {person}, over in {place}, parted with {amount}.",
    "Of {amount}, handed over in {place}, {person} was rid as of {date}.",
)
# Sentences in the evidence that don't matter to the claim.
_DISTRACTORS = (
    "The receipt is filed.",
    "It was for the {thing}.",
    "The {thing} came later.",
    "Nobody complained.",
    "The clerk checked the {thing} twice.",
    "A {thing} was part of it.",
    "All agreed on the {thing}.",
    "There is a copy in the archive.",
)
_CURRENCIES = (("{} dollars", "${}", "{} USD"), ("{} euros", "{} EUR", "EUR {}"), ("{} francs",), ("{} pounds", "£{}"))
_TEMPLATE = PromptTemplate(
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
_OUT_OF_DISTRIBUTION_TEMPLATE = PromptTemplate(
    ("Somebody said something. Did it happen that way?", "Audit this."),
    ("<file>{evidence}</file>\n<said>{claim}</said>", 'We heard: "{claim}" Our books, however, read: "{evidence}"'),
)
IN_DISTRIBUTION = Format(_SENTENCES, _TEMPLATE)
OUT_OF_DISTRIBUTION = Format(_OUT_OF_DISTRIBUTION_SENTENCES, _OUT_OF_DISTRIBUTION_TEMPLATE)
_MAX_SCORE, _PENALTY = 10, 3


def judge_example(sampler: ValueSampler, is_out_of_distribution: bool = False) -> Example:
    """The next example."""
    rng, fmt = sampler.random, OUT_OF_DISTRIBUTION if is_out_of_distribution else IN_DISTRIBUTION
    facts = _sample_facts(sampler)
    num_wrong = rng.choices((0, 1, 2), (5, 4, 1))[0]
    wrong = set(rng.sample(CHECKS, num_wrong))
    claimed = {check: _wrong_value(sampler, check, fact) if check in wrong else fact for check, fact in facts.items()}
    prompt = fmt.template.render(rng, _parts(facts, claimed, sampler, fmt.sentences))
    answer = {
        "checks": {check: check not in wrong for check in CHECKS},
        "failing_criterion": next((check for check in CHECKS if check in wrong), "none"),
        "verdict": "fail" if wrong else "pass",
        "score": _MAX_SCORE - _PENALTY * len(wrong),
    }
    return Example("judge", prompt.system, prompt.user, answer, is_chat=prompt.is_chat)


def _parts(
    facts: dict[str, str], claimed: dict[str, str], sampler: ValueSampler, sentences: tuple[str, ...]
) -> dict[str, str]:
    """The evidence, among distractors, and the claim; both state the amount in the same currency."""
    rng = sampler.random
    currency = rng.choice(_CURRENCIES)
    evidence = [_sentence(facts, currency, rng, sentences)]
    for distractor in rng.sample(_DISTRACTORS, rng.randint(0, 2)):
        evidence.insert(rng.randint(0, len(evidence)), distractor.format(thing=sampler.thing()))
    return {"evidence": " ".join(evidence), "claim": _sentence(claimed, currency, rng, sentences)}


def _sentence(facts: dict[str, str], currency: tuple[str, ...], rng: random.Random, sentences: tuple[str, ...]) -> str:
    amount = rng.choice(currency).format(facts["amount"])
    return rng.choice(sentences).format_map(facts | {"amount": amount})


def _sample_facts(sampler: ValueSampler) -> dict[str, str]:
    return {
        "person": sampler.person(),
        "amount": sampler.amount(5_000),
        "date": sampler.iso_date(),
        "place": sampler.place(),
    }


def _wrong_value(sampler: ValueSampler, check: str, fact: str) -> str:
    """A value other than `fact`, from the same set (training or held-out), and often similar to it."""
    while True:
        other = _sample_facts(sampler)[check]
        if sampler.random.random() < 0.5:
            if check == "person":
                other = _swap_name(sampler.random, fact, other)
            elif check == "amount":
                other = sampler.similar_amount(fact)
            elif check == "date":
                other = sampler.similar_date(fact)
        if other != fact:
            return other


def _swap_name(rng: random.Random, fact: str, other: str) -> str:
    """The first name of one person with the last name of the other."""
    (first, last), (other_first, other_last) = fact.split(), other.split()
    return rng.choice((f"{first} {other_last}", f"{other_first} {last}"))
