"""Which structured-output backends a release uses with an engine."""

import pytest

from llm_policy.guidance.backends.names import ENVIRONMENT_VARIABLE, UnavailableBackend, usable_backends


def test_without_the_variable_the_engine_takes_xgrammar_only():
    assert usable_backends("auto", {}) == ("xgrammar",)


def test_auto_prefers_llguidance_in_whatever_order_the_engine_names_both():
    assert usable_backends("auto", {ENVIRONMENT_VARIABLE: "xgrammar, llguidance"}) == ("llguidance", "xgrammar")


def test_a_backend_that_the_engine_takes_can_be_chosen():
    assert usable_backends("xgrammar", {ENVIRONMENT_VARIABLE: "llguidance,xgrammar"}) == ("xgrammar",)


def test_a_backend_that_the_engine_does_not_take_is_an_error_that_names_both_sides():
    with pytest.raises(UnavailableBackend, match=r"guidance.backend is llguidance, but this engine takes xgrammar"):
        usable_backends("llguidance", {})


@pytest.mark.parametrize("value", ["", "outlines", "xgrammar,outlines"])
def test_an_unknown_backend_of_the_engine_is_an_error(value):
    with pytest.raises(UnavailableBackend, match="LLMSTACK_GUIDE_BACKENDS is"):
        usable_backends("auto", {ENVIRONMENT_VARIABLE: value})
