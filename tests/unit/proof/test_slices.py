"""Slices are read strictly, meant for one engine, and judged by what they expect."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from embedded_model.slices import write_slices
from llmstack.client.ensemble_client import Reply
from llmstack.release.checks.json_pointer import PointerError, resolve
from llmstack.release.checks.junit import junit_xml
from llmstack.release.checks.slice_file import Expectations, Slice, SliceError, read_slices
from llmstack.release.checks.smoke import SliceResult, find_faults, find_mismatches
from tests.releases import write_release

# RFC 6901, section 5.
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}
POINTERS = {
    "": DOCUMENT,
    "/foo": ["bar", "baz"],
    "/foo/0": "bar",
    "/": 0,
    "/a~1b": 1,
    "/c%d": 2,
    "/e^f": 3,
    "/g|h": 4,
    "/i\\j": 5,
    '/k"l': 6,
    "/ ": 7,
    "/m~0n": 8,
}


@pytest.mark.parametrize("pointer", POINTERS)
def test_a_pointer_points_where_the_standard_says(pointer):
    assert resolve(DOCUMENT, pointer) == POINTERS[pointer]


@pytest.mark.parametrize("pointer", ["foo", "/foo/2", "/foo/-1", "/foo/00", "/foo/-", "/nowhere", "/foo/0/x"])
def test_a_pointer_to_nothing_is_refused(pointer):
    with pytest.raises(PointerError):
        resolve(DOCUMENT, pointer)


def answer(text: str, **outputs) -> Reply:
    figures = {"schema_valid": True, "finish_reason": "stop", "cost_usd": 0.001, "num_input_tokens": 10}
    figures |= {"num_output_tokens": 5, "queue_delay_us": 100}
    return Reply({name: [value] for name, value in {"text_output": text, **figures, **outputs}.items()}, "200")


@pytest.mark.parametrize(
    ("expect", "fault"),
    [
        ({"values": {"/verdict": "pass"}}, '/verdict is "fail", expected "pass"'),
        ({"values": {"/score": 7}}, "nothing at /score, expected 7"),
        ({"values": {"/ok": 1}}, "/ok is true, expected 1"),
        ({"schema_valid": False}, "schema_valid is True, expected False"),
        ({"finish_reason": "length"}, "finish_reason is 'stop', expected 'length'"),
        ({"max_cost_usd": 0.0001}, "cost_usd is 0.001, at most 0.0001 expected"),
        ({"max_input_tokens": 9}, "num_input_tokens is 10, at most 9 expected"),
        ({"max_output_tokens": 4}, "num_output_tokens is 5, at most 4 expected"),
        ({"max_queue_delay_us": 99}, "queue_delay_us is 100, at most 99 expected"),
    ],
)
def test_each_expectation_finds_its_fault(expect, fault):
    assert find_faults(Expectations(**expect), answer('{"verdict":"fail","ok":true}')) == [fault]


def test_an_answer_as_expected_has_no_fault():
    expect = Expectations(
        values={"/verdict": "fail", "/n": 1.0}, schema_valid=True, finish_reason="stop", max_cost_usd=0.001
    )
    assert find_faults(expect, answer('{"verdict":"fail","n":1}')) == []


def test_a_refusal_and_what_is_no_json_are_faults():
    assert find_faults(Expectations(), Reply({}, "400", "invalid_input: no")) == ["refused: invalid_input: no"]
    assert find_faults(Expectations(values={"": 1}), answer("{")) == ["text_output is no JSON"]


def test_a_slice_for_another_engine_is_recognised(tmp_path):
    release = write_release(tmp_path / "r1")
    engine = release.manifest.engine
    expect = Expectations(schema_valid=True)
    fits = Slice(id="a", text_input="x", engine_hash=engine.hash, quantisation=engine.quantisation, expect=expect)
    assert find_mismatches(release, fits) == []
    assert find_mismatches(release, Slice(id="a", text_input="x", expect=expect)) == []
    other = fits.model_copy(update={"engine_hash": "sha256:" + "0" * 64, "quantisation": "fp16"})
    assert [fault.split(",")[0][:14] for fault in find_mismatches(release, other)] == [
        "is for engine_",
        "is for quantis",
    ]


def test_every_wrong_line_is_named(tmp_path):
    lines = [
        '{"id": "a"}',
        "no json",
        '{"id": "b", "text_input": "x", "expects": {}}',
        '{"id": "c", "text_input": "x", "expect": {"schema_valid": true}}',
        '{"id": "d", "text_input": "x"}',
    ]
    (tmp_path / "judge.jsonl").write_text("\n".join(lines))
    with pytest.raises(SliceError) as caught:
        read_slices(tmp_path)
    faults = str(caught.value).splitlines()
    assert [fault.split(": ")[0] for fault in faults] == [f"judge.jsonl:{number}" for number in (1, 2, 3, 5)]
    assert "expects" in faults[2]
    assert "expect is empty" in faults[3]


def test_a_line_ends_where_json_lines_do_and_nowhere_else(tmp_path):
    text = "a\u2028b\u2029c\x85d\x0be"
    line = json.dumps({"id": "a", "text_input": text, "expect": {"schema_valid": True}}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes((line + "\r\n").encode())
    ((found,),) = read_slices(tmp_path).values()
    assert found.text_input == text


def test_an_id_that_comes_twice_and_no_slices_at_all_are_refused(tmp_path):
    with pytest.raises(SliceError, match="no slices"):
        read_slices(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text_input": "x", "expect": {"schema_valid": true}}\n' * 2)
    with pytest.raises(SliceError, match="'a' comes twice"):
        read_slices(tmp_path)


def test_the_shipped_slices_are_those_that_the_command_makes(tmp_path):
    from llmstack.cli.release.smoke import DEFAULT_SLICES

    write_slices(tmp_path, seed=1, count=10)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        path.name: path.read_text() for path in DEFAULT_SLICES.glob("*.jsonl")
    }


def test_junit_counts_failures_and_refusals_and_is_xml_whatever_a_slice_says():
    results = [
        SliceResult("judge", "a", "passed", seconds=0.5),
        SliceResult("judge", "b\x00<", "failed", ("no\x1b",)),
        SliceResult("rank", "c", "refused", ("is for engine_hash x",)),
    ]
    root = ElementTree.fromstring(junit_xml(results))
    suites = {suite.get("name"): suite.attrib for suite in root}
    assert (suites["judge"]["tests"], suites["judge"]["failures"], suites["judge"]["errors"]) == ("2", "1", "0")
    assert (suites["rank"]["failures"], suites["rank"]["errors"]) == ("0", "1")
    assert json.dumps([case.get("name") for case in root.iter("testcase")]) == json.dumps(["a", "b�<", "c"])
