"""`llmstack bench beside`."""

import json

import pytest
from typer.testing import CliRunner

from llm_policy.guidance.backends.guide_backend import PlannedGuide
from llm_policy.guidance.compile.guide_report import GuideReport
from llmstack.bench.beside import BesideMeasurement
from llmstack.cli.bench import app, beside
from llmstack.guides import guide_admission
from llmstack.guides.admission import AdmittedGuide, Refused
from llmstack.paths import DEFAULT_RELEASE_DIR

GUIDES = '["regex", "[a-z]+"]\n["choice", "[\\"a\\"]"]\n["regex", "("]\n'


class StandInBench:
    """Has the ratio 0.5 beside `[a-z]+`, and 1 beside anything else."""

    def measure(self, engine_type, engine_text):
        return BesideMeasurement(100.0, 50.0 if engine_text == "[a-z]+" else 100.0, "")


def admit_guides(release, backend, guides):
    """Rejects `(`."""
    for kind, text in guides:
        report = GuideReport(engine_type=kind, engine_text=text, backend=backend, compile_ms=2, mask_ms=0.5)
        is_invalid = text == "("
        yield (
            Refused("schema_invalid", "not closed")
            if is_invalid
            else AdmittedGuide(report, PlannedGuide(kind, text, text), 3.0)
        )


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    monkeypatch.setattr(guide_admission, "admit_guides", admit_guides)
    monkeypatch.setattr(beside, "_load_bench", lambda *_: StandInBench())


def invoke(*arguments, text=GUIDES):
    release = ["--release", str(DEFAULT_RELEASE_DIR)]
    return CliRunner().invoke(app.app, ["beside", "-", *release, *arguments], input=text)


def test_it_exits_with_1_if_a_ratio_is_too_small():
    found = invoke("--backend", "llguidance")
    assert found.exit_code == 1
    assert "1 of 3 below 0.9" in found.stdout


def test_it_passes_with_a_smaller_minimum():
    assert invoke("--min-ratio", "0.5").exit_code == 0


def test_json_has_a_row_for_each_guide_and_backend():
    rows = json.loads(invoke("--json").stdout)
    assert [row["backend"] for row in rows] == ["llguidance"] * 3 + ["xgrammar"] * 3
    assert [row.get("ratio", row.get("code")) for row in rows[:3]] == [0.5, 1.0, "schema_invalid"]
    assert rows[0]["probe_mask_ms"] == 0.5


def test_the_table_begins_with_the_worst_ratio_and_ends_with_the_rejected_guides():
    output = invoke("--backend", "xgrammar").stdout
    assert output.index("0.500") < output.index("1.000") < output.index("schema_inv")


@pytest.mark.parametrize("text", ["no JSON", '["regex"]', "3"])
def test_a_line_that_is_no_guide_is_an_error(text):
    found = invoke(text=text)
    assert found.exit_code == 2
    assert "not a guide on each line" in found.stderr


def test_a_missing_file_is_an_error(tmp_path):
    found = CliRunner().invoke(app.app, ["beside", str(tmp_path / "none")])
    assert found.exit_code == 2
    assert "No such file" in found.stderr
