"""Reports on guides, in memory and in a file."""

from pathlib import Path

import pytest

from llm_policy.guidance.compile import guide_cache
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.compile.guide_report import GuideReport

VALID = GuideReport(engine_type="ebnf_grammar", engine_text="root ::= [0-9]", schema_id="sha256:1", compile_ms=1.5)
REJECTED = GuideReport("schema_invalid", "no")


def test_a_report_is_found_by_type_and_text(tmp_path):
    cache = GuideCache(tmp_path / "guides.db", "one")
    cache.put("regex", "[0-9]", VALID)
    assert cache.get("regex", "[0-9]") == VALID
    assert cache.get("json_schema", "[0-9]") is None


@pytest.mark.parametrize("report", [VALID, REJECTED])
def test_another_instance_loads_the_report_from_the_file(tmp_path, report):
    GuideCache(tmp_path / "guides.db", "one").put("regex", "x", report)
    other = GuideCache(tmp_path / "guides.db", "one")
    assert other.get("regex", "x") is None
    assert other.load("regex", "x") == report
    assert other.get("regex", "x") == report


def test_reports_of_another_context_are_not_found(tmp_path):
    GuideCache(tmp_path / "guides.db", "one").put("regex", "x", VALID)
    assert GuideCache(tmp_path / "guides.db", "two").load("regex", "x") is None


def test_a_temporary_report_is_never_written_to_the_file(tmp_path):
    cache = GuideCache(tmp_path / "guides.db", "one")
    cache.put("regex", "x", REJECTED, is_temporary=True)
    assert cache.get("regex", "x") == REJECTED
    assert cache.load("regex", "x") is None


def test_a_temporary_report_expires(monkeypatch):
    monkeypatch.setattr(guide_cache, "TEMPORARY_S", -1.0)
    cache = GuideCache(None, "one")
    cache.put("regex", "x", REJECTED, is_temporary=True)
    assert cache.get("regex", "x") is None


def test_memory_is_bounded_in_bytes():
    cache = GuideCache(None, "one")
    for number in range(80):
        cache.put("regex", f"{number}", VALID._replace(engine_text="x" * (1 << 20)))
    assert 0 < cache._memory.currsize <= guide_cache.MAX_MEMORY_BYTES
    assert cache.get("regex", "79") is not None
    assert cache.get("regex", "0") is None


def test_a_report_larger_than_the_cache_is_not_kept():
    cache = GuideCache(None, "one")
    cache.put("regex", "x", VALID._replace(engine_text="x" * (guide_cache.MAX_MEMORY_BYTES + 1)))
    assert cache.get("regex", "x") is None


def test_without_a_usable_file_the_memory_still_works():
    cache = GuideCache(Path("/proc/none/guides.db"), "one")
    cache.put("regex", "x", VALID)
    assert cache.get("regex", "x") == VALID
    assert cache.load("regex", "x") is None
