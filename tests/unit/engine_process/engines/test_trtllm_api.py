"""The engine on TensorRT-LLM's LLM API, on a stand-in for the package."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from engine_process.engine import Clocks, EngineDied, EngineLoadError
from engine_process.engines.trtllm_api import TrtllmApiEngine
from engine_process.messages import Capabilities, Guide, Sampling
from tests.unit.engine_process.engines.adapter_calls import failure_of, request, run
from tests.unit.engine_process.engines.release_directory import EOS_ID
from tests.unit.engine_process.engines.trtllm_stand_in import (
    RequestError,
    SamplingParams,
    Script,
    StandInLLM,
    install,
    write_trtllm_release,
)

LARK = Guide("llguidance", "lark_grammar", 'start: "a"\n')


@pytest.fixture
def package(monkeypatch):
    install(monkeypatch)


def load(directory, backend="auto", **settings) -> TrtllmApiEngine:
    engine = TrtllmApiEngine()
    asyncio.run(engine.load(write_trtllm_release(directory, backend, **settings)))
    return engine


@pytest.fixture
def engine(tmp_path, package) -> TrtllmApiEngine:
    return load(tmp_path)


@pytest.fixture
def llm(engine) -> StandInLLM:
    return StandInLLM.instances[-1]


def refused(directory, backend="auto", **settings) -> str:
    with pytest.raises(EngineLoadError) as error:
        load(directory, backend, **settings)
    return str(error.value)


def test_each_step_has_the_tokens_since_the_one_before(engine, llm):
    llm.scripts.append(Script([4, 5, EOS_ID], "stop"))

    steps = run(engine, request())

    assert [(step.token_ids, step.finish_reason) for step in steps] == [([4], None), ([5], None), ([EOS_ID], "stop")]


def test_the_clocks_of_the_last_step_are_monotonic_times_in_nanoseconds(engine, llm):
    llm.scripts.append(Script([4, 5]))

    first, last = run(engine, request())

    assert first.clocks is None
    assert last.clocks == Clocks(999_999_500_000, 1_000_000_000_000, 1_000_000_001_000)


def test_log_probabilities_are_those_of_the_chosen_tokens(engine, llm):
    llm.scripts.append(Script([4, 5]))

    assert [step.log_probs for step in run(engine, request(log_probs=True))] == [[-0.4], [-0.5]]
    assert run(engine, request())[0].log_probs is None


def test_the_llm_gets_the_prompt_and_the_parameters(engine, llm):
    run(engine, request(sampling=Sampling(0.5, 10, 0.9, 1.1, seed=3), bad_sequences=[[8, 9]], min_tokens=2))

    prompt, parameters = llm.requests[-1]
    assert prompt == [1, 2, 3]
    assert (parameters.temperature, parameters.top_k, parameters.top_p, parameters.seed) == (0.5, 10, 0.9, 3)
    assert (parameters.max_tokens, parameters.min_tokens, parameters.end_id) == (4, 2, EOS_ID)
    assert parameters.repetition_penalty == 1.1
    assert parameters._get_bad_words() == [[8, 9]]
    assert (parameters.detokenize, parameters.add_special_tokens) == (False, False)
    assert parameters.guided_decoding is None


@pytest.mark.parametrize(
    ("guide", "field", "value"),
    [
        (LARK, "grammar", LARK.text),
        (Guide("xgrammar", "json_schema", '{"type": "string"}'), "json", '{"type": "string"}'),
        (Guide("xgrammar", "regex", "a+"), "regex", "a+"),
        (Guide("xgrammar", "json", ""), "json", "{}"),
    ],
)
def test_a_guide_goes_to_the_llm_in_its_field(engine, llm, guide, field, value):
    run(engine, request(guide=guide))

    assert getattr(llm.requests[-1][1].guided_decoding, field) == value


def test_a_guide_that_the_backend_does_not_take_is_rejected_and_never_dropped(engine, llm):
    num_requests = len(llm.requests)

    failure = failure_of(engine, request(guide=Guide("xgrammar", "ebnf_grammar", "root ::= x")))

    assert failure.code == "schema_invalid"
    assert len(llm.requests) == num_requests


@pytest.mark.parametrize(
    ("guide", "code", "detail"),
    [
        (LARK, "schema_invalid", "the lark_grammar guide does not compile"),
        (None, "invalid_input", "TensorRT-LLM rejects the request"),
    ],
)
def test_a_request_that_the_llm_rejects_is_its_own_failure_and_not_quoted(engine, llm, guide, code, detail):
    llm.scripts.append(Script(error=RequestError("secret")))

    failure = failure_of(engine, request(guide=guide))

    assert (failure.code, failure.detail) == (code, detail)
    assert run(engine, request())[-1].finish_reason == "length"


def test_any_other_error_ends_the_engine(engine, llm):
    llm.scripts.append(Script([4], error=RuntimeError("the executor has shut down")))

    with pytest.raises(EngineDied, match="RuntimeError: the executor has shut down"):
        run(engine, request())


@pytest.mark.parametrize("reason", ["timeout", "cancelled"])
def test_any_other_end_is_a_failure(engine, llm, reason):
    llm.scripts.append(Script([4], reason))

    assert failure_of(engine, request()).code == "internal"


def test_closing_the_steps_aborts_the_request(engine, llm):
    async def take_one() -> None:
        llm.scripts.append(Script([4, 5, 6]))
        async with aclosing(engine.generate(request(), 0)) as steps:
            async for _ in steps:
                break

    asyncio.run(take_one())

    assert llm.results[-1].is_aborted


def test_a_cancelled_task_aborts_the_request(engine, llm):
    async def cancel() -> None:
        llm.scripts.append(Script([4], never_ends=True))
        has_begun = asyncio.Event()

        async def take() -> None:
            async with aclosing(engine.generate(request(), 0)) as steps:
                async for _ in steps:
                    has_begun.set()

        task = asyncio.create_task(take())
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())

    assert llm.results[-1].is_aborted


def test_a_completion_that_ended_is_not_aborted(engine, llm):
    run(engine, request())

    assert not llm.results[-1].is_aborted


def test_load_reports_what_the_engine_can_do(tmp_path, package):
    async def capabilities() -> Capabilities:
        return await TrtllmApiEngine().load(write_trtllm_release(tmp_path))

    assert asyncio.run(capabilities()) == Capabilities(8, 64, 100, ["lark_grammar", "json", "json_schema", "regex"])


@pytest.mark.parametrize(
    ("wanted", "backend"), [("auto", "llguidance"), ("llguidance", "llguidance"), ("xgrammar", "xgrammar")]
)
def test_load_starts_the_manifests_backend_and_proves_that_it_enforces_guides(tmp_path, package, wanted, backend):
    load(tmp_path, wanted)

    (llm,) = StandInLLM.instances
    assert llm.args.guided_decoding_backend == backend
    assert llm.args.max_batch_size == 9  # the canary's lane is one more
    assert llm.requests[0][1].guided_decoding.grammar


@pytest.mark.parametrize("name", ["guided_decoding_backend", "sampler_type", "return_perf_metrics"])
def test_an_llm_that_drops_an_argument_is_refused(tmp_path, package, monkeypatch, name):
    monkeypatch.setattr(StandInLLM, "dropped", (name,))

    assert f"TensorRT-LLM was asked for {name} " in refused(tmp_path)
    assert StandInLLM.instances[-1].is_shut_down


def test_an_llm_that_does_not_enforce_guides_is_refused(tmp_path, package, monkeypatch):
    monkeypatch.setattr(StandInLLM, "_default", lambda *_: Script([1, 2, 3, 4]))

    assert "the engine does not enforce guides" in refused(tmp_path)
    assert StandInLLM.instances[-1].is_shut_down


def test_an_llm_that_returns_no_clocks_is_refused(tmp_path, package, monkeypatch):
    monkeypatch.setattr(StandInLLM, "returns_metrics", False)

    assert "does not return the request's clocks" in refused(tmp_path)
    assert StandInLLM.instances[-1].is_shut_down


def test_a_package_that_does_not_hand_on_bad_sequences_is_refused(tmp_path, package, monkeypatch):
    monkeypatch.setattr(SamplingParams, "_get_bad_words", lambda _: [])

    assert refused(tmp_path) == "this TensorRT-LLM does not hand on sequences of bad tokens"
    assert StandInLLM.instances == []


def test_a_tokenizer_that_ends_with_another_token_than_the_release_is_refused(tmp_path, package, monkeypatch):
    monkeypatch.setattr(StandInLLM, "eos_token_id", 98)

    assert "eos_token 98, which is not among the release's stop_token_ids [99]" in refused(tmp_path)
    assert StandInLLM.instances[-1].is_shut_down


def test_an_llm_that_does_not_start_is_refused_with_its_reason(tmp_path, package, monkeypatch):
    monkeypatch.setattr(StandInLLM, "start_error", RuntimeError("not enough memory"))

    assert refused(tmp_path) == "TensorRT-LLM does not start: RuntimeError: not enough memory"


def test_a_python_without_the_package_is_refused(tmp_path):
    assert "TensorRT-LLM can't be imported: No module named 'tensorrt_llm'" in refused(tmp_path)


def test_close_stops_the_llms_processes(engine, llm):
    asyncio.run(engine.close())

    assert llm.is_shut_down
