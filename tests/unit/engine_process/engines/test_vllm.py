"""The vLLM engine, on vLLM's own types where it is installed and on a stand-in for AsyncLLM everywhere."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from engine_process.engine import Clocks, EngineDied, EngineLoadError
from engine_process.engines.vllm import VllmEngine
from engine_process.messages import Capabilities, Guide, Sampling
from tests.unit.engine_process.engines.adapter_calls import failure_of, request, run
from tests.unit.engine_process.engines.release_directory import EOS_ID, write_release
from tests.unit.engine_process.engines.vllm_stand_in import IS_REAL, SHAPES, Script, StandInLLM, install

LARK = Guide("llguidance", "lark_grammar", 'start: "a"\n')


@pytest.fixture
def llm_class(monkeypatch):
    return install(monkeypatch)


def load(directory, backend="auto", **settings) -> VllmEngine:
    engine = VllmEngine()
    asyncio.run(engine.load(write_release(directory, backend, **settings)))
    return engine


@pytest.fixture
def engine(tmp_path, llm_class) -> VllmEngine:
    return load(tmp_path)


@pytest.fixture
def llm(engine) -> StandInLLM:
    return StandInLLM.instances[-1]


def test_the_tokens_of_each_step_come_as_they_are_made(engine, llm):
    llm.scripts.append(Script([4, 5, 6], tokens_per_step=2))

    steps = run(engine, request())

    assert [(step.token_ids, step.finish_reason) for step in steps] == [([4, 5], None), ([6], "length")]


def test_end_id_is_the_last_token_of_a_stopped_completion(engine, llm):
    llm.scripts.append(Script([4, EOS_ID], "stop"))

    steps = run(engine, request())

    assert [step.token_ids for step in steps] == [[4], [EOS_ID]]
    assert steps[-1].finish_reason == "stop"


def test_vllm_gets_the_prompt_and_the_parameters(engine, llm):
    run(engine, request(sampling=Sampling(0.5, 10, 0.9, seed=3), bad_sequences=[[8, 9]], min_tokens=2, log_probs=True))

    prompt, parameters, _ = llm.requests[-1]
    assert prompt == {"prompt_token_ids": [1, 2, 3]}
    assert (parameters.temperature, parameters.top_k, parameters.top_p, parameters.seed) == (0.5, 10, 0.9, 3)
    assert (parameters.max_tokens, parameters.min_tokens, parameters.logprobs) == (4, 2, 0)
    assert (parameters.stop_token_ids, parameters.ignore_eos, parameters.detokenize) == ([EOS_ID], True, False)
    assert parameters._bad_words_token_ids == [[8, 9]]
    assert parameters.output_kind.name == "DELTA"
    assert parameters.structured_outputs is None


def test_two_requests_with_the_same_number_have_different_names_in_vllm(engine, llm):
    run(engine, request())
    run(engine, request())

    assert llm.requests[-1][2] != llm.requests[-2][2]


def test_log_probabilities_are_those_of_the_chosen_tokens(engine, llm):
    llm.scripts.append(Script([4, 5], tokens_per_step=2))

    assert run(engine, request(log_probs=True))[0].log_probs == [-0.4, -0.5]
    assert run(engine, request())[0].log_probs is None


def test_the_clocks_are_vllms_monotonic_times_in_nanoseconds(engine, llm):
    llm.scripts.append(Script([4, 5]))

    first, last = run(engine, request())

    assert first.clocks == Clocks(999_500_000_000, 1_000_000_000_000, 1_000_000_000_000)
    assert last.clocks == Clocks(999_500_000_000, 1_000_000_000_000, 1_001_000_000_000)


def test_a_guide_goes_to_vllm_in_its_field(engine, llm):
    run(engine, request(guide=LARK))

    assert llm.requests[-1][1].structured_outputs.grammar == LARK.text


@pytest.mark.parametrize("backend", ["llguidance", "xgrammar"])
@pytest.mark.parametrize(
    ("kind", "text", "field", "value"),
    [
        ("json_schema", '{"type": "string"}', "json", '{"type": "string"}'),
        ("regex", "[ab]+", "regex", "[ab]+"),
        ("json", "", "json", "{}"),
    ],
)
def test_a_guide_in_a_language_of_both_backends_goes_to_the_one_that_vllm_was_started_with(
    engine, llm, backend, kind, text, field, value
):
    run(engine, request(guide=Guide(backend, kind, text)))

    assert getattr(llm.requests[-1][1].structured_outputs, field) == value


@pytest.mark.parametrize(
    ("guide", "text"),
    [
        (Guide("llguidance", "ebnf_grammar", "root ::= x"), "unknown guide type, allowed: lark_grammar, json,"),
        (Guide("llguidance", "structural_tag", "{}"), "unknown guide type, allowed: lark_grammar, json,"),
        (Guide("llguidance", "lark_grammar", "  "), "the guide is empty"),
    ],
)
def test_a_guide_that_the_backend_does_not_take_is_rejected_and_never_dropped(engine, llm, guide, text):
    num_requests = len(llm.requests)

    failure = failure_of(engine, request(guide=guide))

    assert failure.code == "schema_invalid"
    assert failure.detail.startswith(text)
    assert len(llm.requests) == num_requests


def test_a_guided_completion_must_end_with_the_tokenizers_end(engine):
    failure = failure_of(engine, request(guide=LARK, end_id=5))

    assert (failure.code, failure.detail) == (
        "invalid_input",
        f"a guided completion ends with token {EOS_ID}, but end_id is 5",
    )


def test_a_guide_that_vllm_rejects_is_invalid_and_not_quoted(engine, llm):
    llm.scripts.append(Script(error=ValueError("Grammar error: secret")))

    failure = failure_of(engine, request(guide=LARK))

    assert (failure.code, failure.detail) == ("schema_invalid", "the lark_grammar guide does not compile")


def test_a_request_that_vllm_rejects_is_invalid_and_not_quoted(engine, llm):
    llm.scripts.append(Script(error=ValueError("prompt [1, 2, 3]")))

    failure = failure_of(engine, request())

    assert (failure.code, failure.detail) == ("invalid_input", "vLLM rejects the request")


def test_a_token_outside_the_vocabulary_never_reaches_vllm(engine, llm):
    num_requests = len(llm.requests)

    assert failure_of(engine, request(ids=(100,))).code == "invalid_input"
    assert len(llm.requests) == num_requests


def test_a_dead_engine_core_ends_the_engine(engine, llm):
    from vllm.v1.engine.exceptions import EngineDeadError

    llm.scripts.append(Script([4], error=EngineDeadError()))

    with pytest.raises(EngineDied):
        run(engine, request())


def test_an_error_of_one_request_is_its_own(engine, llm):
    llm.scripts.append(Script([4], error=RuntimeError("out of luck")))

    assert failure_of(engine, request()).code == "internal"
    assert run(engine, request())[-1].finish_reason == "length"


def test_an_error_that_stops_vllms_output_ends_the_engine(engine, llm):
    llm.errored = True
    llm.scripts.append(Script([4], error=RuntimeError("the output handler failed")))

    with pytest.raises(EngineDied, match="RuntimeError: the output handler failed"):
        run(engine, request())


@pytest.mark.parametrize("reason", [name for name in SHAPES["finish_reasons"] if name not in ("stop", "length")])
def test_any_other_end_is_a_failure(engine, llm, reason):
    llm.scripts.append(Script([4], reason))

    assert failure_of(engine, request()).code == "internal"


def test_a_guide_that_bad_words_leave_no_token_is_the_requests_fault(engine, llm):
    llm.scripts.append(Script([4], "error"))

    assert failure_of(engine, request(guide=LARK, bad_sequences=[[1]])).code == "invalid_input"


def test_closing_the_steps_aborts_the_request(engine, llm):
    async def take_one() -> None:
        llm.scripts.append(Script([4, 5, 6]))
        async with aclosing(engine.generate(request(), 0)) as steps:
            async for _ in steps:
                break

    asyncio.run(take_one())

    assert llm.aborted == [llm.requests[-1][2]]


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

    assert llm.aborted == [llm.requests[-1][2]]


def test_every_step_of_the_scheduler_is_progress(engine, llm):
    before = engine.last_step_ns()

    llm.record_step()

    assert before < engine.last_step_ns() <= time.monotonic_ns()


def test_load_reports_what_the_engine_can_do(tmp_path, llm_class):
    async def capabilities() -> Capabilities:
        return await VllmEngine().load(write_release(tmp_path))

    assert asyncio.run(capabilities()) == Capabilities(8, 64, 100, ["lark_grammar", "json", "json_schema", "regex"])


@pytest.mark.parametrize(
    ("wanted", "backend", "kind"),
    [("auto", "guidance", "grammar"), ("llguidance", "guidance", "grammar"), ("xgrammar", "xgrammar", "grammar")],
)
def test_load_starts_the_manifests_backend_and_proves_that_it_enforces_guides(
    tmp_path, llm_class, wanted, backend, kind
):
    load(tmp_path, wanted)

    (llm,) = StandInLLM.instances
    arguments, (_, parameters, _) = llm.engine_args, llm.requests[0]
    config = arguments.structured_outputs_config
    assert (config["backend"] if isinstance(config, dict) else config.backend) == backend
    assert getattr(parameters.structured_outputs, kind)
    assert arguments.max_num_seqs == 9


def refused(directory, backend="auto", **settings) -> str:
    with pytest.raises(EngineLoadError) as error:
        load(directory, backend, **settings)
    return str(error.value)


def test_an_engine_that_does_not_enforce_guides_is_refused(tmp_path, llm_class, monkeypatch):
    monkeypatch.setattr(StandInLLM, "enforces_guides", False)

    assert "the engine does not enforce guides" in refused(tmp_path)
    assert StandInLLM.instances[-1].is_shut_down


def test_an_engine_that_does_not_answer_is_refused(tmp_path, llm_class, monkeypatch):
    monkeypatch.setattr(StandInLLM, "_default", lambda *_: Script(error=RuntimeError("no kernel")))

    assert refused(tmp_path) == "the engine does not answer a guided request: vLLM failed the request"
    assert StandInLLM.instances[-1].is_shut_down


@pytest.mark.parametrize("eos_id", [None, 98])
def test_a_tokenizer_that_ends_with_another_token_than_the_release_is_refused(tmp_path, llm_class, monkeypatch, eos_id):
    monkeypatch.setattr(StandInLLM, "eos_token_id", eos_id)

    assert f"the tokenizer's eos_token {eos_id}, which is not among the release's stop_token_ids [99]" in refused(
        tmp_path
    )
    assert StandInLLM.instances[-1].is_shut_down


def test_a_vllm_that_does_not_start_is_refused_with_its_reason(tmp_path, llm_class, monkeypatch):
    monkeypatch.setattr(StandInLLM, "start_error", RuntimeError("not enough memory"))

    assert refused(tmp_path) == "vLLM does not start: RuntimeError: not enough memory"


def test_a_wrong_option_is_refused_before_anything_starts(tmp_path, llm_class):
    assert "option tensor_parallel_size is 'all'" in refused(tmp_path, options={"tensor_parallel_size": "all"})
    assert StandInLLM.instances == []


def test_a_release_for_another_backend_or_without_stop_tokens_is_refused(tmp_path, llm_class):
    assert "guidance.backend is 'outlines', allowed: auto, llguidance, xgrammar" in refused(tmp_path, "outlines")
    assert "has no stop_token_ids" in refused(tmp_path, stop_token_ids=())


@pytest.mark.skipif(IS_REAL, reason="vLLM is installed")
def test_a_python_without_vllm_is_refused(tmp_path):
    assert "vLLM can't be imported: No module named 'vllm'" in refused(tmp_path)


def test_a_vllm_without_the_field_for_bad_words_is_refused(tmp_path, llm_class, monkeypatch):
    import vllm.sampling_params

    kept = tuple(name for name in SHAPES["SamplingParams"] if name != "_bad_words_token_ids")
    old = type("SamplingParams", (), {"__struct_fields__": kept})
    monkeypatch.setattr(vllm.sampling_params, "SamplingParams", old)

    assert "has no field SamplingParams._bad_words_token_ids" in refused(tmp_path)


def test_close_stops_vllms_processes(engine, llm):
    asyncio.run(engine.close())

    assert llm.is_shut_down


def test_the_stand_in_takes_what_asyncllm_takes():
    assert {"prompt", "sampling_params", "request_id"} <= set(SHAPES["AsyncLLM.generate"])
    assert {"engine_args", "stat_loggers"} <= set(SHAPES["AsyncLLM.from_engine_args"])
    assert SHAPES["AsyncLLM.get_tokenizer is async"] is False
    assert SHAPES["AsyncLLM.errored is a property"] is True
    assert SHAPES["StatLoggerBase"] == ["__init__", "log_engine_initialized", "record"]
