"""The bench's own figures, and the vocabulary it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstack.guides.bench import InstanceVerdict, SchemaResult, percentiles, summarise
from llmstack.guides.instance_order import follows_declaration
from llmstack.tokenizer.qwen_vocabulary import build_tokenizer, encoded_vocab, last_merge, read_ranks, vocabulary_path


def test_rates_are_fractions_of_the_accepted_schemas_instances() -> None:
    instances = [
        InstanceVerdict(valid=True, judged_valid=True, accepted=True, in_order=True),
        InstanceVerdict(valid=True, judged_valid=True, accepted=False, in_order=False),
        InstanceVerdict(valid=False, judged_valid=True, accepted=True, in_order=True),
    ]
    report = summarise([SchemaResult("a", instances=instances), SchemaResult("b", refusal="schema_invalid")])
    assert (report["schemas"], report["accepted"], report["refused"]) == (2, 1, {"schema_invalid": 1})
    assert (report["false_accept_rate"], report["false_reject_rate"], report["false_reject_rate_all"]) == (
        1.0,
        0.0,
        0.5,
    )
    assert report["valid_flag_errors"] == 1


def test_percentiles_are_nearest_ranks() -> None:
    assert percentiles([float(n) for n in range(1, 101)]) == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}


@pytest.mark.parametrize(
    ("instance", "in_order"),
    [({"a": 1, "b": 2}, True), ({"b": 2, "a": 1}, False), ({"c": 1}, False), ({"b": {"x": 1}}, True), ({}, True)],
)
def test_an_instance_is_in_order_when_its_properties_are_declared_and_sorted(instance: object, in_order: bool) -> None:
    schema = {"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]}
    assert follows_declaration(schema, instance) is in_order


def test_the_last_merge_joins_what_all_lower_merges_leave() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"abc": 4}
    assert last_merge(b"abc", ranks) == (b"ab", b"c")


def test_the_vocabulary_gives_qwens_own_ids(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    try:
        ranks = read_ranks(vocabulary_path())
    except FileNotFoundError:
        pytest.skip("package dashscope is not installed")
    assert len(ranks) == 151_643
    tokenizer = tokenizers.Tokenizer.from_file(str(build_tokenizer(tmp_path)))
    assert tokenizer.encode("Hello").ids == [9707]
    assert tokenizer.decode(tokenizer.encode("naïve 漢字 😀").ids) == "naïve 漢字 😀"
    assert tokenizer.token_to_id("<|im_end|>") == 151_645


def test_encoded_vocab_is_in_id_order() -> None:
    document = {"model": {"vocab": {"b": 1, "a": 0}}, "added_tokens": [{"id": 2, "content": "<s>"}]}
    assert encoded_vocab(document) == ["a", "b", "<s>"]
