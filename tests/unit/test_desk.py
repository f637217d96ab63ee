"""Guides at the desk, with real children."""

import queue
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llm_policy.errors import Code, InvalidRequest, PolicyError, Unavailable
from llm_policy.guidance.compile.compile_queue import MAX_WAITING_GUIDES, NUM_CHILDREN, GuideCompiler
from llm_policy.guidance.compile.guide_cache import GuideCache
from llm_policy.guidance.compile.guide_report import GuideReport
from llm_policy.guidance.compile.sandbox import SandboxChild
from llm_policy.guidance.guide import Guide
from llm_policy.release.manifest import Guidance
from llmstack.paths import DEFAULT_RELEASE_DIR

pytest.importorskip("xgrammar")
INFO = DEFAULT_RELEASE_DIR / "tokenizer_info.json"


def open_desk(guidance, *arguments):
    """A desk whose children have started: only a registered guide may wait for that."""
    desk = GuideCompiler(guidance, INFO, GuideCache(None, "test"), *arguments)
    desk.register([Guide("regex", "ready", "ready")])
    return desk


@pytest.fixture(scope="module")
def desk():
    desk = open_desk(Guidance(max_adhoc_per_minute=1_000))
    yield desk
    desk.close()


def prove(desk, *guides, timeout_s=30):
    answers = queue.Queue()
    desk.prove(list(guides), answers.put)
    return answers.get(timeout=timeout_s)


def test_a_sound_guide_is_planned_and_known_from_then_on(desk):
    guide = Guide("json_schema", '{"type":"integer","minimum":3,"maximum":9}')
    assert desk.verdict(guide) is None
    assert prove(desk, guide) is None
    plan = desk.verdict(guide)
    assert plan.engine_type == "ebnf_grammar"
    assert plan.schema_id.startswith("sha256:")


def test_a_registered_schema_keeps_its_name(desk):
    desk.register([Guide("json_schema", '{"type":"boolean"}', "flag")])
    assert desk.verdict(Guide("json_schema", '{"type":"boolean"}', "flag")).schema_id == "flag"


def test_a_broken_registered_schema_is_named(desk):
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: registered schema bad: "):
        desk.register([Guide("json_schema", '{"type":"strin"}', "bad")])


def test_a_registered_schema_that_is_known_from_the_file_needs_no_child(tmp_path):
    cache = GuideCache(tmp_path / "guides.db", "test")
    cache.put("regex", "a", GuideReport(engine_type="regex", engine_text="a"))
    desk = GuideCompiler(Guidance(), Path("/nowhere"), GuideCache(tmp_path / "guides.db", "test"))
    desk.register([Guide("regex", "a", "known")])
    assert desk.verdict(Guide("regex", "a", "known")).schema_id == "known"
    desk.close()


def test_a_refusal_is_known_from_then_on(desk):
    guide = Guide("regex", "(")
    refusal = prove(desk, guide)
    assert refusal.code is Code.SCHEMA_INVALID
    with pytest.raises(InvalidRequest, match=r"^schema_invalid"):
        desk.verdict(guide)


def test_one_bad_guide_among_good_ones_is_the_answer(desk):
    assert isinstance(prove(desk, Guide("regex", "a"), Guide("regex", "[")), PolicyError)


def test_everybody_who_waits_for_one_guide_is_answered(desk):
    guide, answers = Guide("regex", "[a-z]{1,9}x"), queue.Queue()
    for _ in range(20):
        desk.prove([guide], answers.put)
    assert [answers.get(timeout=30) for _ in range(20)] == [None] * 20


def compilers() -> list[psutil.Process]:
    """The desk's children that live; one that was killed may be a zombie for a while."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "llm_policy.guidance.compile.worker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_child_that_is_killed_is_replaced(desk):
    killed = compilers()
    assert len(killed) == NUM_CHILDREN
    for child in killed:
        child.kill()
    desk.register([Guide("regex", "after[0-9]", "after")])
    assert {child.pid for child in compilers()} - {child.pid for child in killed}


def test_new_guides_within_a_minute_are_bounded():
    desk = open_desk(Guidance(max_adhoc_per_minute=1))
    desk.prove([Guide("regex", "a")], print)
    with pytest.raises(Unavailable, match=r"limit 1 .max_adhoc_per_minute."):
        desk.prove([Guide("regex", "b")], print)
    desk.close()


def test_keywords_that_cannot_be_enforced_are_refused_where_the_manifest_says_so():
    guidance = Guidance(unenforced_keywords="reject")
    desk = open_desk(guidance)
    refusal = prove(desk, Guide("json_schema", '{"type":"array","items":{"type":"number"},"uniqueItems":true}'))
    assert str(refusal) == "schema_invalid: 1 keywords can't be enforced, limit 0: uniqueItems"
    desk.close()


def test_closing_leaves_no_child_behind():
    before = set(psutil.Process().children())
    desk = open_desk(Guidance())
    prove(desk, Guide("regex", "a"))
    desk.close()
    assert set(psutil.Process().children()) <= before


def test_a_callback_that_fails_is_reported_and_harms_nobody_else():
    faults = queue.Queue()
    desk = open_desk(Guidance(), faults.put)
    desk.prove([Guide("regex", "a")], lambda refusal: 1 / 0)
    assert prove(desk, Guide("regex", "b")) is None
    assert isinstance(faults.get(timeout=10), ZeroDivisionError)
    desk.close()


def test_requests_for_one_new_guide_compile_it_once(desk, monkeypatch):
    asked, answers = [], queue.Queue()
    guide = Guide("regex", "once[0-9]{1,3}")
    ask = SandboxChild.ask
    monkeypatch.setattr(SandboxChild, "ask", lambda self, *guide: (asked.append(guide), ask(self, *guide)))
    for _ in range(10):
        desk.prove([guide], answers.put)
    assert [answers.get(timeout=30) for _ in range(10)] == [None] * 10
    assert len(asked) == 1


def test_more_new_guides_than_can_wait_are_sent_away(desk):
    slow = [Guide("json_schema", f'{{"enum":{list(range(n, n + 1_500))}}}') for n in range(2 * MAX_WAITING_GUIDES)]
    with pytest.raises(
        Unavailable, match=rf"^guidance_unavailable: \d+ new guides already wait, limit {MAX_WAITING_GUIDES}"
    ):
        for guide in slow:
            desk.prove([guide], lambda refusal: None)
