"""Synthetic examples: the answer stands in the prompt, fits its schema, and held-out values are never trained on."""

import json
import random
import re

import jsonschema_rs
import pytest

from llm_policy.manifest import TASKS
from llmstack.embedded import words as words_module
from llmstack.embedded.examples import CHECKS, MAX_LENGTH, REGISTERED_SHAPES, held_out_examples, make_example
from llmstack.embedded.schemas import SCHEMAS
from llmstack.embedded.text import training_text
from llmstack.embedded.words import Words

COUNT = 200
REGISTERED = {"rank_candidates": "ranking", "judge": "verdict"}


def trained_examples(task, seed=0, count=COUNT):
    words = Words(random.Random(seed), is_held_out=False, pieces=["ab", "tion", "q"])
    return [make_example(task, words) for _ in range(count)]


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


def test_one_seed_gives_the_same_examples(task):
    assert trained_examples(task) == trained_examples(task)
    assert held_out_examples(task, 5, 40, 10) == held_out_examples(task, 5, 40, 10)


def test_another_seed_gives_other_examples(task):
    assert trained_examples(task)[:20] != trained_examples(task, seed=1)[:20]
    assert held_out_examples(task, 5, 20, 10) != held_out_examples(task, 6, 20, 10)


def test_every_answer_is_valid_under_its_schema(task):
    for example in [*trained_examples(task), *held_out_examples(task, 1, COUNT, 60)]:
        schema = example.schema or SCHEMAS[REGISTERED[task]]
        assert jsonschema_rs.validator_for(schema).is_valid(example.answer), example


def test_an_answer_has_its_members_in_the_schemas_order():
    for example in trained_examples("generate_json"):
        assert list(json.loads(example.answer_text)) == list(example.schema["properties"])


def test_every_value_of_a_filled_schema_stands_in_the_text():
    for example in trained_examples("generate_json"):
        text = example.user.split("\nText: ")[1]
        for name, value in example.answer.items():
            stated = value if isinstance(value, list) else [value]
            assert all(str(part) in text for part in stated if not isinstance(part, bool | None)), (name, example)


def test_a_value_is_null_only_where_the_schema_allows_it():
    nulls = 0
    for example in trained_examples("generate_json", count=1_000):
        for name, value in example.answer.items():
            if value is None:
                nulls += 1
                assert "null" in example.schema["properties"][name]["type"]
    assert nulls > 10


def test_a_ranking_follows_the_stated_criterion():
    for example in trained_examples("rank_candidates"):
        criterion = example.user.splitlines()[0]
        values = [example.answer["values"][letter] for letter in example.answer["ranking"]]
        is_rising = bool(re.search("cheapest|lightest|worst|fastest|nearest|least", criterion))
        assert values == sorted(values, reverse=not is_rising)
        assert len(set(values)) == len(values)


def test_a_verdict_names_the_first_criterion_that_fails():
    for example in trained_examples("judge"):
        wrong = [check for check in CHECKS if not example.answer["checks"][check]]
        assert example.answer["failing_criterion"] == (wrong[0] if wrong else "none")
        assert example.answer["verdict"] == ("fail" if wrong else "pass")


def test_claims_are_supported_about_as_often_as_not():
    supported = sum(example.answer["verdict"] == "pass" for example in trained_examples("judge", count=1_000))
    assert 350 < supported < 650


def test_the_registered_shapes_are_asked_for_with_the_registered_schemas():
    for name, shape in REGISTERED_SHAPES.items():
        assert shape.schema.items() <= SCHEMAS[name].items()


def test_a_text_of_a_bounded_schema_fits_its_bound():
    longest = max(len(Words(random.Random(seed), is_held_out=False).person()) for seed in range(2_000))
    assert longest <= MAX_LENGTH


def held_out_words():
    return {word for name, values in vars(words_module).items() if name.startswith("HELD_OUT") for word in values}


def test_no_held_out_word_stands_in_training_text():
    text = set(re.findall(r"\w+", " ".join(training_text())))
    for task in TASKS:
        for example in trained_examples(task, count=500):
            text |= set(re.findall(r"\w+", example.user))
    assert not held_out_words() & text


def test_no_long_number_or_date_is_both_trained_on_and_held_out():
    pattern = re.compile(r"\d{4}-\d{2}-\d{2}|(?<![\d.])\d{3,}(?=\.\d\d|\D|$)")
    trained, held_out = set(), set()
    for task in ("generate_json", "rank_candidates"):
        for example in trained_examples(task, count=1_000):
            trained |= set(pattern.findall(example.user.split("\nText: ")[-1]))
        for example in held_out_examples(task, 1, 300, 60):
            held_out |= set(pattern.findall(example.user.split("\nText: ")[-1]))
    assert len(held_out) > 300
    assert not trained & held_out
