"""Synthetic examples: the answer stands in the prompt, fits its schema, and held-out values are never trained on."""

import json
import random
import re

import jsonschema_rs
import pytest

from embedded_model import filling, judging, ranking
from embedded_model import words as words_module
from embedded_model.domains import DOMAINS, UNFAMILIAR_DOMAINS
from embedded_model.examples import held_out_examples, make_example
from embedded_model.filling import MAX_LENGTH, REGISTERED_SHAPES
from embedded_model.judging import CHECKS
from embedded_model.schemas import SCHEMAS
from embedded_model.text import training_text
from embedded_model.words import Words
from llm_policy.release.manifest import TASKS

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
        text = example.user
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


def test_prompts_of_a_task_come_in_many_forms(task):
    examples = trained_examples(task, count=400)
    assert len({example.system for example in examples}) > 6
    assert {example.is_chat for example in examples} == {True, False}
    assert sum(not example.system for example in examples) > 50
    openings = {re.split(r"\W", example.user)[0] for example in examples}
    assert len(openings) > 5


@pytest.mark.parametrize(
    "form",
    [r'"type":"object"', r'"type": "object", ', r'\n  "type": "object"', r"^Text:[^{]*\{", r"^[^{]*$", "Fields: "],
)
def test_a_schema_may_stand_in_any_of_its_forms(form):
    assert any(re.search(form, example.user) for example in trained_examples("generate_json", count=400))


@pytest.mark.parametrize("marker", ["A: ", "- A: ", "* A: ", "A. ", "A) ", "(A) ", "[A] ", "Option A: "])
def test_candidates_may_have_any_of_the_usual_markers(marker):
    users = [example.user for example in trained_examples("rank_candidates", count=400)]
    assert any(f"\n{marker}" in f"\n{user}" for user in users)


def test_the_claim_may_stand_before_the_evidence():
    firsts = {re.split(r":\s", example.user)[0].split("\n")[-1] for example in trained_examples("judge")}
    assert {"Evidence", "Claim"} <= firsts


def test_the_unfamiliar_forms_are_none_that_training_shows():
    assert not {domain.name for domain in DOMAINS} & {domain.name for domain in UNFAMILIAR_DOMAINS}
    assert not set(filling._UNFAMILIAR.layouts) & {*filling._WITH_SCHEMA.layouts, *filling._WITH_FIELDS.layouts}
    for module in (ranking, judging):
        assert not set(module._WORDING.instructions) & set(module._UNFAMILIAR.instructions)
        assert not set(module._WORDING.layouts) & set(module._UNFAMILIAR.layouts)
    names = {criterion.name for criterion in ranking._CRITERIA}
    assert not names & {criterion.name for criterion in ranking._UNFAMILIAR_CRITERIA}
    assert not set(ranking._MARKERS) & set(ranking._UNFAMILIAR_MARKERS)
    assert not set(judging._FACTS) & set(judging._UNFAMILIAR_FACTS)


def test_unfamiliar_answers_are_valid_under_their_schemas_too(task):
    for example in held_out_examples(task, 1, 60, 20, is_familiar=False):
        schema = example.schema or SCHEMAS[REGISTERED[task]]
        assert jsonschema_rs.validator_for(schema).is_valid(example.answer), example


def test_a_ranking_follows_the_stated_criterion():
    checked = 0
    for example in trained_examples("rank_candidates"):
        criterion = next(line for line in example.user.splitlines() if re.search("first|from|ascending|descend", line))
        values = [example.answer["values"][letter] for letter in example.answer["ranking"]]
        first = re.search(r"from ([a-z ]+?) to|([a-z ]+) first|(ascending|descending)", criterion)
        word = next(filter(None, first.groups())).removeprefix(" ").removeprefix("put the ").removeprefix("ut the ")
        is_rising = values == sorted(values)
        assert is_rising or values == sorted(values, reverse=True)
        assert (word, is_rising) != ("ascending", False)
        assert (word, is_rising) != ("descending", True)
        for named in ranking._CRITERIA:
            if re.search(rf"\b{named.name}\b", criterion) and word in named.least + named.most:
                assert is_rising is (word in named.least), criterion
                checked += 1
        assert len(set(values)) == len(values)
    assert checked > COUNT / 2


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


def _without_schema(prompt):
    """The prompt less what JSON schemas say: their limits are the same for both."""
    return re.sub(r'"(minimum|maximum)": ?\d+', "", prompt)


def test_a_near_value_stays_on_its_side_of_the_split():
    for is_held_out in (False, True):
        words = Words(random.Random(1), is_held_out)
        for _ in range(2_000):
            assert words.is_my_day(words.near_day(words.day()))
            assert words.is_my_cents(words.near_cents(words.cents(5_000)))


def test_no_long_number_or_date_is_both_trained_on_and_held_out():
    pattern = re.compile(r"\d{4}-\d{2}-\d{2}|(?<![\d.])\d{3,}(?=\.\d\d|\D|$)")
    trained, held_out = set(), set()
    for task in TASKS:
        for example in trained_examples(task, count=3_000):
            trained |= set(pattern.findall(_without_schema(example.user)))
        for example in [*held_out_examples(task, 1, 300, 60), *held_out_examples(task, 1, 100, 60, is_familiar=False)]:
            held_out |= set(pattern.findall(_without_schema(example.user)))
    assert len(held_out) > 300
    assert not trained & held_out
