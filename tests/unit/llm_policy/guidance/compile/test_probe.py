"""The probe finds guides that would hang the engine, and accepts the others."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.backends.guide_backend import Bitmask, num_mask_words
from llm_policy.guidance.compile.probe import Probe, SlowMask, allows, first_allowed
from llm_policy.guidance.grammar.ebnf_writer import write_ebnf
from llm_policy.guidance.plan.guide_plan import GuidePlan
from llm_policy.guidance.plan.json_schema_guide import plan_json, plan_json_schema
from llm_policy.release.guide_limits import GuideLimits
from tests.grammar_check import STOP, backend

LIMITS = GuideLimits()
WORDS = num_mask_words(STOP + 1)
TOKENS = [bytes([byte]) for byte in range(256)] + [b""]


def walk(grammar: str | GuidePlan, limits: GuideLimits = LIMITS, max_mask_ms: float = 1_000) -> float:
    text = grammar if isinstance(grammar, str) else write_ebnf(grammar.grammar, limits, copy_classes=True)
    return Probe(TOKENS, [STOP], limits, max_mask_ms).walk(backend().compile(text), WORDS)


def test_a_valid_guide_is_walked_to_its_end() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
    walk(plan_json_schema(json.dumps(schema), LIMITS))
    walk(plan_json(LIMITS))


def test_a_long_output_is_accepted() -> None:
    walk(plan_json_schema('{"type":"string","minLength":400}', LIMITS), GuideLimits(max_probe_steps=50))


def test_a_dead_end_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: .* no token is allowed"):
        walk("root ::= root")


def test_a_walk_over_the_time_limit_is_rejected() -> None:
    guide = plan_json_schema('{"type":"string","minLength":400}', LIMITS)
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: time of the guide's probe"):
        walk(guide, GuideLimits(max_probe_ms=0))


def test_inside_a_string_the_probe_prefers_the_closing_quote_to_brackets() -> None:
    """Each closing character that the string may contain would make it longer."""
    seen: list[bytes] = []

    class Recorded:
        def __init__(self) -> None:
            self._matcher = backend().compile('root ::= "\\"" [^\\"]* "\\""').matcher()
            self.fill_bitmask = self._matcher.fill_bitmask

        def accept_token(self, token_id: int) -> bool:
            seen.append(TOKENS[token_id])
            return self._matcher.accept_token(token_id)

    class Guide:
        def matcher(self) -> Recorded:
            return Recorded()

    Probe(TOKENS, [STOP], LIMITS, 1_000).walk(Guide(), WORDS)
    assert seen[:2] == [b'"', b'"']


class SlowMatcher:
    """Allows `a`, a hundred times; its mask at `slow_position` takes long."""

    def __init__(self, slow_position: int, clock: list[float]) -> None:
        self._slow_position, self._clock, self._position = slow_position, clock, 0

    def fill_bitmask(self, bitmask: Bitmask) -> None:
        bitmask[:] = 0
        token = STOP if self._position > 100 else ord("a")
        bitmask[token // 32] = np.array(1 << token % 32, np.uint32).astype(np.int32)
        self._clock[0] += 0.2 if self._position == self._slow_position else 0.000_1

    def accept_token(self, token_id: int) -> bool:
        self._position += 1
        return True


class SlowGuide:
    def __init__(self, slow_position: int, clock: list[float]) -> None:
        self._slow_position, self._clock = slow_position, clock

    def matcher(self) -> SlowMatcher:
        return SlowMatcher(self._slow_position, self._clock)


@pytest.mark.parametrize("position", [0, 1, 60, 100])
def test_a_slow_mask_is_found_at_any_position_of_the_walk(monkeypatch, position):
    clock = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    with pytest.raises(SlowMask) as finding:
        Probe(TOKENS, [STOP], LIMITS, 5).walk(SlowGuide(position, clock), WORDS)
    assert finding.value.mask_ms == pytest.approx(200)


def test_the_worst_mask_is_reported(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    assert Probe(TOKENS, [STOP], LIMITS, 5).walk(SlowGuide(1_000, clock), WORDS) == pytest.approx(0.1)


@given(st.sets(st.integers(0, STOP)), st.lists(st.integers(0, STOP)))
def test_the_first_allowed_token_is_the_first_preferred_one_or_the_lowest(allowed, preferred):
    mask = np.zeros(WORDS, np.uint32)
    for token in allowed:
        mask[token // 32] |= np.uint32(1 << token % 32)
    found = first_allowed(mask.view(np.int32), preferred)
    assert found == next((token for token in preferred if token in allowed), min(allowed, default=None))
    assert {token for token in range(STOP + 1) if allows(mask.view(np.int32), token)} == allowed
