"""`llmstack guides`."""

import json

import pytest
from typer.testing import CliRunner

from llmstack.cli import guides
from llmstack.guides import bench
from llmstack.guides.schema_result import InstanceResult, SchemaResult
from llmstack.tokenizer import qwen_vocabulary

pytest.importorskip("xgrammar")
pytest.importorskip("llguidance")

UNIQUE_ITEMS = '{"type":"array","items":{"type":"null"},"uniqueItems":true}'


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch):
    monkeypatch.delenv("LLMSTACK_GUIDE_BACKENDS", raising=False)


def invoke(*arguments, text=None):
    return CliRunner().invoke(guides.app, [str(argument) for argument in arguments], input=text)


def explained(*arguments, text='{"type":"boolean"}'):
    return json.loads(invoke("explain", "-", "--json", *arguments, text=text).stdout)


def test_explain_prints_the_grammar_and_the_unenforced_keywords_as_json():
    explanation = explained("--backend", "xgrammar", text=UNIQUE_ITEMS)
    assert explanation["guide"].startswith("root ::= ")
    assert (explanation["backend"], explanation["guide_type"]) == ("xgrammar", "ebnf_grammar")
    assert [finding["keyword"] for finding in explanation["unenforced"]] == ["uniqueItems"]
    assert explanation["compile_ms"] > 0
    assert explanation["mask_ms"] > 0


def test_explain_without_an_engine_chooses_the_better_backend():
    explanation = explained()
    assert (explanation["backend"], explanation["guide_type"]) == ("llguidance", "lark_grammar")
    assert explanation["guide"].startswith("start: %json ")


def test_explain_chooses_among_the_backends_of_the_engine(monkeypatch):
    monkeypatch.setenv("LLMSTACK_GUIDE_BACKENDS", "xgrammar")
    assert explained()["backend"] == "xgrammar"


def test_explain_fails_with_2_for_a_backend_that_the_engine_lacks(monkeypatch):
    monkeypatch.setenv("LLMSTACK_GUIDE_BACKENDS", "xgrammar")
    found = invoke("explain", "-", "--backend", "llguidance", text="{}")
    assert found.exit_code == 2
    assert "this engine takes xgrammar" in found.stderr


def test_explain_begins_with_one_sentence_and_prints_the_grammar_last_if_asked():
    output = invoke("explain", "-", "--backend", "xgrammar", text=UNIQUE_ITEMS).stdout
    assert output.startswith("Taken by xgrammar and enforced in part; not enforced: uniqueItems.\n")
    assert "root ::=" not in output
    shown = invoke("explain", "-", "--backend", "xgrammar", "--grammar", text=UNIQUE_ITEMS).stdout
    assert "root ::=" in shown.split("uniqueItems")[-1]


def test_the_first_sentence_says_that_undeclared_properties_are_lost():
    open_object = '{"type":"object","properties":{"a":{"type":"boolean"}}}'
    closed_object = open_object[:-1] + ',"additionalProperties":false}'
    lost = "; answers have no undeclared properties."
    assert explained(text=open_object)["summary"] == "Taken by llguidance and enforced in full" + lost
    assert explained(text=closed_object)["summary"] == "Taken by llguidance and enforced in full."


def test_explain_prints_the_backend_and_the_times_below_it():
    output = " ".join(invoke("explain", "-", "--backend", "xgrammar", text=UNIQUE_ITEMS).stdout.split())
    assert "for xgrammar (ebnf_grammar)" in output
    assert "token masks up to" in output
    assert "Not enforced by the grammar" in output


def test_explain_exits_with_1_and_the_error_for_a_rejected_guide():
    found = invoke("explain", "-", "--type", "regex", text="(")
    assert found.exit_code == 1
    assert "rejected: schema_invalid: the regex has a parenthesis that is not closed" in " ".join(found.stdout.split())


def measured(tmp_path, monkeypatch, *arguments):
    """(report, standard error) of a bench whose converters all accept one invalid instance."""
    (tmp_path / "a.json").write_text("{}")
    instance = InstanceResult(valid=False, judged_valid=False, accepted=True, in_order=True)
    monkeypatch.setattr(qwen_vocabulary, "build_tokenizer", lambda directory: directory / "tokenizer.json")
    monkeypatch.setattr(bench, "measure_schemas", lambda *_: iter([SchemaResult("a", instances=[instance])]))
    found = invoke("bench", "--schemas", tmp_path, "--json", *arguments)
    return json.loads(found.stdout), found.stderr


def test_bench_prints_a_table_and_the_report_of_each_backend(tmp_path, monkeypatch):
    report, shown = measured(tmp_path, monkeypatch)
    assert list(report) == ["llguidance", "xgrammar"]
    assert report["xgrammar"]["false_accept_rate"] == 1.0
    assert "xgrammar: 1 of 1 schemas accepted" in shown
    assert "invalid instances that the grammar accepts: 100.00% of 1" in shown


def test_bench_adds_the_libraries_own_converters(tmp_path, monkeypatch):
    report, _ = measured(tmp_path, monkeypatch, "--baseline")
    assert list(report) == ["llguidance", "xgrammar", "llguidance_baseline", "xgrammar_baseline"]


def test_bench_measures_one_backend_alone(tmp_path, monkeypatch):
    report, _ = measured(tmp_path, monkeypatch, "--baseline", "--backend", "llguidance")
    assert list(report) == ["llguidance", "llguidance_baseline"]
