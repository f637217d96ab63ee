"""Slice files are read strictly, and every error is reported."""

import json

import pytest

from embedded_model.release.slices import write_slices
from llmstack.release.checks.slice_file import SliceError, read_slices


def test_every_invalid_line_is_reported(tmp_path):
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
    errors = str(caught.value).splitlines()
    assert [error.split(": ")[0] for error in errors] == [f"judge.jsonl:{number}" for number in (1, 2, 3, 5)]
    assert "expects" in errors[2]
    assert "expect is empty" in errors[3]


def test_only_a_newline_ends_a_line(tmp_path):
    text = "a\u2028b\u2029c\x85d\x0be"
    line = json.dumps({"id": "a", "text_input": text, "expect": {"schema_valid": True}}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes((line + "\r\n").encode())
    ((found,),) = read_slices(tmp_path).values()
    assert found.text_input == text


def test_a_duplicate_id_and_an_empty_directory_are_errors(tmp_path):
    with pytest.raises(SliceError, match="no slices"):
        read_slices(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text_input": "x", "expect": {"schema_valid": true}}\n' * 2)
    with pytest.raises(SliceError, match="'a' is used twice"):
        read_slices(tmp_path)


def test_the_shipped_slices_are_reproducible(tmp_path):
    from llmstack.cli.release.smoke import DEFAULT_SLICES

    write_slices(tmp_path, seed=1, count=10)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        path.name: path.read_text() for path in DEFAULT_SLICES.glob("*.jsonl")
    }
