"""What is known about guides, in memory and in a file."""

from pathlib import Path

import pytest

from llm_policy.guidance.compile import guide_cache
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.compile.guide_report import GuideReport

GOOD = GuideReport(engine_type="ebnf_grammar", engine_text="root ::= [0-9]", schema_id="sha256:1", compile_ms=1.5)
BAD = GuideReport("schema_invalid", "no")


def test_a_verdict_is_found_again(tmp_path):
    cache = GuideCache(tmp_path / "guides.db", "one")
    cache.put("regex", "[0-9]", GOOD)
    assert cache.get("regex", "[0-9]") == GOOD
    assert cache.get("json_schema", "[0-9]") is None


@pytest.mark.parametrize("report", [GOOD, BAD])
def test_another_instance_and_a_restart_find_it_in_the_file(tmp_path, report):
    GuideCache(tmp_path / "guides.db", "one").put("regex", "x", report)
    other = GuideCache(tmp_path / "guides.db", "one")
    assert other.get("regex", "x") is None
    assert other.fetch("regex", "x") == report
    assert other.get("regex", "x") == report


def test_another_tokenizer_or_other_limits_find_nothing(tmp_path):
    GuideCache(tmp_path / "guides.db", "one").put("regex", "x", GOOD)
    assert GuideCache(tmp_path / "guides.db", "two").fetch("regex", "x") is None


def test_a_brief_verdict_is_never_written_down(tmp_path):
    cache = GuideCache(tmp_path / "guides.db", "one")
    cache.put("regex", "x", BAD, brief=True)
    assert cache.get("regex", "x") == BAD
    assert cache.fetch("regex", "x") is None


def test_memory_is_bounded_in_bytes():
    cache = GuideCache(None, "one")
    for number in range(80):
        cache.put("regex", f"{number}", GOOD._replace(engine_text="x" * (1 << 20)))
    assert cache._memory_bytes <= guide_cache.MAX_MEMORY_BYTES
    assert cache.get("regex", "79") is not None
    assert cache.get("regex", "0") is None


def test_a_file_that_cannot_be_opened_costs_nothing_but_the_file():
    cache = GuideCache(Path("/proc/none/guides.db"), "one")
    cache.put("regex", "x", GOOD)
    assert cache.get("regex", "x") == GOOD
    assert cache.fetch("regex", "x") is None
