"""Properties of the header gate."""

import json

from hypothesis import given
from hypothesis import strategies as st

from llm_policy.rules.headers import MAX_HEADER_CHARS, HeaderGate
from llm_policy.rules.parameters import TRITON_PARAMETERS, TRITON_PREFIX
from tests.survivors import keep_if, keeps_at_least

ENGINE = "sha256:" + "a" * 64
GATE = HeaderGate(ENGINE, "w4a8")
NAMES = st.sampled_from(["X-Engine-Hash", "X-Quantisation", "X-Tenant", "X-Request-Id", "traceparent"])
VALUES = st.sampled_from([ENGINE, "w4a8", "fp16", "", "x" * 200]) | st.text(max_size=8) | st.integers() | st.none()
ANY_PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
REQUIRED = [("X-Engine-Hash", ENGINE), ("X-Quantisation", "w4a8")]
OTHERS = st.dictionaries(st.sampled_from(["X-Tenant", "X-Request-Id", "traceparent"]), st.text("abc-1", max_size=8))
COMPLETE_PAIRS = OTHERS.flatmap(lambda others: st.permutations([*REQUIRED, *others.items()]))
PAIRS = ANY_PAIRS | COMPLETE_PAIRS


def as_json(pairs):
    return "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"


def result(pairs):
    check = GATE.check(as_json(pairs))
    error = check.error()
    return check.sender, str(error) if error else None


def passes(pairs):
    return result(pairs)[1] is None


@given(PAIRS, st.randoms(use_true_random=False))
def test_order_never_changes_whether_a_request_passes(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert passes(pairs) == passes(shuffled)


@given(PAIRS, st.randoms(use_true_random=False))
def test_case_never_changes_the_result(pairs, random):
    recased = [("".join(random.choice((c.lower(), c.upper())) for c in name), value) for name, value in pairs]
    assert result(pairs) == result(recased)


@given(PAIRS)
def test_the_sender_is_named_by_printable_ascii_only(pairs):
    sender, _ = result(pairs)
    for text in (sender.tenant, sender.request_id, sender.trace_id):
        assert len(text) <= MAX_HEADER_CHARS
        assert all(" " <= character <= "~" for character in text)


@keeps_at_least(0.2)
@given(PAIRS)
def test_nothing_passes_without_both_required_headers(pairs):
    keep_if(passes(pairs))
    given_values = dict(pairs)
    assert given_values["X-Engine-Hash"] == ENGINE
    assert given_values["X-Quantisation"] == "w4a8"


@given(COMPLETE_PAIRS, st.text())
def test_another_parameter_is_known_or_rejected_without_its_value(pairs, name):
    value = "tulip-marmalade-9"
    _, error = result([*pairs, (name, value)])
    assert error is None or value not in error
    known = {pair[0].lower() for pair in pairs} | {"traceparent"}
    if passes(pairs) and name.lower() not in known:
        assert (error is None) == (name in TRITON_PARAMETERS or name.startswith(TRITON_PREFIX))
