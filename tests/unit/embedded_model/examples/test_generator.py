"""Synthetic examples: the prompt states the answer, the answer fits its schema, and held-out values stay held out."""

import json
import random
import re

import jsonschema_rs
import pytest

from embedded_model.examples import generate_json, judge, rank_candidates, value_sampler
from embedded_model.examples.corpus import corpus_lines
from embedded_model.examples.domains import DOMAINS, OUT_OF_DISTRIBUTION_DOMAINS
from embedded_model.examples.generate_json import MAX_LENGTH, REGISTERED_SPECS
from embedded_model.examples.generator import generate_example, held_out_examples
from embedded_model.examples.judge import CHECKS
from embedded_model.examples.value_sampler import ValueSampler
from embedded_model.release.schemas import SCHEMAS
from llm_policy.release.manifest import TASKS

COUNT = 200
REGISTERED = {"rank_candidates": "ranking", "judge": "verdict"}


def training_examples(task, seed=0, count=COUNT):
    sampler = ValueSampler(random.Random(seed), is_held_out=False, pieces=["ab", "tion", "q"])
    return [generate_example(task, sampler) for _ in range(count)]


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


def test_equal_seeds_give_equal_examples(task):
    assert training_examples(task) == training_examples(task)
    assert held_out_examples(task, 5, 40, 10) == held_out_examples(task, 5, 40, 10)


def test_different_seeds_give_different_examples(task):
    assert training_examples(task)[:20] != training_examples(task, seed=1)[:20]
    assert held_out_examples(task, 5, 20, 10) != held_out_examples(task, 6, 20, 10)


def test_every_answer_is_valid_under_its_schema(task):
    for example in [*training_examples(task), *held_out_examples(task, 1, COUNT, 60)]:
        schema = example.schema or SCHEMAS[REGISTERED[task]]
        assert jsonschema_rs.validator_for(schema).is_valid(example.answer), example


def test_the_members_of_an_answer_follow_the_schemas_order():
    for example in training_examples("generate_json"):
        assert list(json.loads(example.answer_text)) == list(example.schema["properties"])


def test_the_text_states_every_value_of_the_answer():
    for example in training_examples("generate_json"):
        text = example.user
        for name, value in example.answer.items():
            stated = value if isinstance(value, list) else [value]
            assert all(str(part) in text for part in stated if not isinstance(part, bool | None)), (name, example)


def test_a_value_is_null_only_where_the_schema_allows_it():
    nulls = 0
    for example in training_examples("generate_json", count=1_000):
        for name, value in example.answer.items():
            if value is None:
                nulls += 1
                assert "null" in example.schema["properties"][name]["type"]
    assert nulls > 10


def test_the_prompts_of_a_task_have_many_formats(task):
    examples = training_examples(task, count=400)
    assert len({example.system for example in examples}) > 6
    assert {example.is_chat for example in examples} == {True, False}
    assert sum(not example.system for example in examples) > 50
    openings = {re.split(r"\W", example.user)[0] for example in examples}
    assert len(openings) > 5


@pytest.mark.parametrize(
    "pattern",
    [r'"type":"object"', r'"type": "object", ', r'\n  "type": "object"', r"^Text:[^{]*\{", r"^[^{]*$", "Fields: "],
)
def test_each_format_of_a_schema_occurs(pattern):
    assert any(re.search(pattern, example.user) for example in training_examples("generate_json", count=400))


@pytest.mark.parametrize("marker", ["A: ", "- A: ", "* A: ", "A. ", "A) ", "(A) ", "[A] ", "Option A: "])
def test_each_marker_of_candidates_occurs(marker):
    users = [example.user for example in training_examples("rank_candidates", count=400)]
    assert any(f"\n{marker}" in f"\n{user}" for user in users)


def test_the_claim_occurs_before_and_after_the_evidence():
    firsts = {re.split(r":\s", example.user)[0].split("\n")[-1] for example in training_examples("judge")}
    assert {"Evidence", "Claim"} <= firsts


def test_no_out_of_distribution_format_is_used_in_training():
    assert not {domain.name for domain in DOMAINS} & {domain.name for domain in OUT_OF_DISTRIBUTION_DOMAINS}
    layouts = {*generate_json._WITH_SCHEMA.layouts, *generate_json._WITH_FIELDS.layouts}
    assert not layouts & set(generate_json._OUT_OF_DISTRIBUTION.layouts)
    for module in (rank_candidates, judge):
        trained, other = module.IN_DISTRIBUTION, module.OUT_OF_DISTRIBUTION
        assert not set(trained.template.instructions) & set(other.template.instructions)
        assert not set(trained.template.layouts) & set(other.template.layouts)
    trained, other = rank_candidates.IN_DISTRIBUTION, rank_candidates.OUT_OF_DISTRIBUTION
    names = {criterion.name for criterion in trained.criteria}
    assert not names & {criterion.name for criterion in other.criteria}
    assert not set(trained.markers) & set(other.markers)
    assert not set(judge.IN_DISTRIBUTION.sentences) & set(judge.OUT_OF_DISTRIBUTION.sentences)


def test_out_of_distribution_answers_are_valid_under_their_schemas(task):
    for example in held_out_examples(task, 1, 60, 20, is_out_of_distribution=True):
        schema = example.schema or SCHEMAS[REGISTERED[task]]
        assert jsonschema_rs.validator_for(schema).is_valid(example.answer), example


def test_a_ranking_follows_the_stated_criterion():
    checked = 0
    for example in training_examples("rank_candidates"):
        criterion = next(line for line in example.user.splitlines() if re.search("first|from|ascending|descend", line))
        values = [example.answer["values"][letter] for letter in example.answer["ranking"]]
        first = re.search(r"from ([a-z ]+?) to|([a-z ]+) first|(ascending|descending)", criterion)
        word = next(filter(None, first.groups())).removeprefix(" ").removeprefix("put the ").removeprefix("ut the ")
        is_ascending = values == sorted(values)
        assert is_ascending or values == sorted(values, reverse=True)
        assert (word, is_ascending) != ("ascending", False)
        assert (word, is_ascending) != ("descending", True)
        for known in rank_candidates.IN_DISTRIBUTION.criteria:
            if re.search(rf"\b{known.name}\b", criterion) and word in known.lowest + known.highest:
                assert is_ascending is (word in known.lowest), criterion
                checked += 1
        assert len(set(values)) == len(values)
    assert checked > COUNT / 2


def test_failing_criterion_is_the_first_check_that_fails():
    for example in training_examples("judge"):
        wrong = [check for check in CHECKS if not example.answer["checks"][check]]
        assert example.answer["failing_criterion"] == (wrong[0] if wrong else "none")
        assert example.answer["verdict"] == ("fail" if wrong else "pass")


def test_about_half_of_the_claims_are_supported():
    supported = sum(example.answer["verdict"] == "pass" for example in training_examples("judge", count=1_000))
    assert 350 < supported < 650


def test_the_registered_specs_have_the_registered_schemas():
    for name, spec in REGISTERED_SPECS.items():
        assert spec.schema.items() <= SCHEMAS[name].items()


def test_every_name_fits_the_length_of_a_bounded_string():
    longest = max(len(ValueSampler(random.Random(seed), is_held_out=False).person()) for seed in range(2_000))
    assert longest <= MAX_LENGTH


def held_out_words():
    return {word for name, values in vars(value_sampler).items() if name.startswith("HELD_OUT") for word in values}


def test_training_text_has_no_held_out_word():
    text = set(re.findall(r"\w+", " ".join(corpus_lines())))
    for task in TASKS:
        for example in training_examples(task, count=500):
            text |= set(re.findall(r"\w+", example.user))
    assert not held_out_words() & text


def _without_schema(prompt):
    """The prompt without the limits in its JSON Schema, which are the same in both sets."""
    return re.sub(r'"(minimum|maximum)": ?\d+', "", prompt)


def test_a_similar_value_belongs_to_the_same_set():
    for is_held_out in (False, True):
        sampler = ValueSampler(random.Random(1), is_held_out)
        for _ in range(2_000):
            assert sampler.is_allowed_date(sampler.similar_date(sampler.iso_date()))
            assert sampler.is_allowed_amount(sampler.similar_amount(sampler.amount(5_000)))


def test_no_long_number_or_date_is_in_both_sets():
    pattern = re.compile(r"\d{4}-\d{2}-\d{2}|(?<![\d.])\d{3,}(?=\.\d\d|\D|$)")
    trained, held_out = set(), set()
    for task in TASKS:
        for example in training_examples(task, count=3_000):
            trained |= set(pattern.findall(_without_schema(example.user)))
        further = held_out_examples(task, 1, 100, 60, is_out_of_distribution=True)
        for example in [*held_out_examples(task, 1, 300, 60), *further]:
            held_out |= set(pattern.findall(_without_schema(example.user)))
    assert len(held_out) > 300
    assert not trained & held_out
