"""`llmstack guides`."""

import json

import pytest
from typer.testing import CliRunner

from llmstack.cli import guides
from llmstack.guides.schema_result import InstanceResult, SchemaResult

pytest.importorskip("xgrammar")


def invoke(*arguments, text=None):
    return CliRunner().invoke(guides.app, [str(argument) for argument in arguments], input=text)


def test_explain_prints_the_grammar_and_the_unenforced_keywords_as_json():
    found = invoke("explain", "-", "--json", text='{"type":"array","items":{"type":"null"},"uniqueItems":true}')
    explanation = json.loads(found.stdout)
    assert found.exit_code == 0
    assert explanation["guide"].startswith("root ::= ")
    assert [finding["keyword"] for finding in explanation["unenforced"]] == ["uniqueItems"]


def test_explain_exits_with_1_and_the_error_for_a_rejected_guide():
    found = invoke("explain", "-", "--type", "regex", text="(")
    assert found.exit_code == 1
    assert "rejected: schema_invalid: the regex has a parenthesis that is not closed" in " ".join(found.stdout.split())


def test_bench_prints_a_table_and_the_report_as_json(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("{}")
    instance = InstanceResult(valid=False, judged_valid=False, accepted=True, in_order=True)
    monkeypatch.setattr(guides, "build_tokenizer", lambda directory: directory / "tokenizer.json")
    monkeypatch.setattr(guides, "measure_schemas", lambda *_: iter([SchemaResult("a", instances=[instance])]))
    found = invoke("bench", "--schemas", tmp_path, "--baseline", "--json")
    report = json.loads(found.stdout)
    assert report["false_accept_rate"] == report["baseline"]["false_accept_rate"] == 1.0
    assert "false_accept_rate" in found.stderr
    assert "100.00 %" in found.stderr
