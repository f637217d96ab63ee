"""The `tensorrt_llm` model in front of the portable engine: one response per request, with tensors or an error code."""

import json
import threading
import time

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from engine_process.engines.portable import PortableEngine
from llmstack.paths import DEFAULT_RELEASE_DIR
from portable_engine.batcher import InFlightBatcher
from portable_engine.guide_types import UNKNOWN_GUIDE_TYPE
from portable_engine.kv_cache import SlotCache
from tests import pb_utils
from tests.pb_utils import InferenceRequest, execute, infer
from tests.running_engine import running_engine
from tests.unit.portable_engine.tiny_qwen3 import Clock

TOKENIZER = Tokenizer.from_file(str(DEFAULT_RELEASE_DIR / "tokenizer" / "tokenizer.json"))
ENGINE_HASH = json.loads((DEFAULT_RELEASE_DIR / "manifest.json").read_bytes())["engine"]["hash"]
END_ID = TOKENIZER.token_to_id("<|im_end|>")
OUTPUTS = (
    *("output_ids", "sequence_length", "cum_log_probs", "output_log_probs", "num_input_tokens", "num_output_tokens"),
    *("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"),
)
LONG = 3_000  # tokens; such a request is still running when a test cancels it or stops the model
TYPES = {
    **dict.fromkeys(("return_log_probs", "exclude_input_in_output"), np.bool_),
    **dict.fromkeys(("guided_decoding_guide_type", "guided_decoding_guide"), np.object_),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The portable engine behind its socket, and the directory of that."""
    state_dir = tmp_path_factory.mktemp("state")
    loaded = PortableEngine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMSTACK_ENGINE_DEVICE", "cpu")
        with running_engine(loaded, state_dir, DEFAULT_RELEASE_DIR, engine_hash=ENGINE_HASH):
            yield loaded, state_dir
    torch.set_grad_enabled(True)  # the engine turns it off for its whole process


@pytest.fixture(scope="module")
def modules():
    """The module under test, and the one that writes the responses."""
    with pb_utils.installed("engine_process.triton.engine_model", "engine_process.triton.pending_response") as imported:
        yield imported


@pytest.fixture(scope="module")
def model(modules, engine):
    model = start_model(modules[0], engine[1])
    yield model
    model.finalize()


def start_model(module, state_dir):
    model = module.EngineModel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMSTACK_RELEASE_DIR", str(DEFAULT_RELEASE_DIR))
        patch.setenv("LLMSTACK_STATE_DIR", str(state_dir))
        model.initialize({})
    return model


def request(text="hello", num_tokens=6, outputs=OUTPUTS, **inputs):
    """One row that generates exactly `num_tokens` tokens, unless a guide ends it."""
    ids = TOKENIZER.encode(text).ids
    return request_of_rows([ids], [len(ids)], num_tokens, outputs, **inputs)


def request_of_rows(rows, lengths, num_tokens, outputs=OUTPUTS, **inputs):
    scalars = {"request_output_len": num_tokens, "exclude_input_in_output": True, **inputs}
    arrays = {
        name: np.full((len(rows), 1), value, TYPES.get(name, np.int32)) if np.isscalar(value) else value
        for name, value in scalars.items()
    }
    ids = {"input_ids": np.array(rows, np.int32), "input_lengths": np.array(lengths, np.int32).reshape(-1, 1)}
    return InferenceRequest({**ids, **arrays}, outputs)


def guided(guide_type, guide, **inputs):
    """A request with a guide, which ends with the guide's text."""
    guide_inputs = {"guided_decoding_guide_type": guide_type, "guided_decoding_guide": guide}
    return request(num_tokens=40, end_id=END_ID, **guide_inputs, **inputs)


def completion(answer, row=0):
    assert answer.error is None, answer.error
    return answer.outputs["output_ids"][row, 0, : answer.outputs["sequence_length"][row, 0]].tolist()


def test_only_requested_outputs_become_tensors(model, monkeypatch):
    names = []
    send = pb_utils.ResponseSender.send

    def record(sender, response, flags):
        names.extend(tensor.name() for tensor in response.output_tensors())
        send(sender, response, flags)

    monkeypatch.setattr(pb_utils.ResponseSender, "send", record)
    (answer,) = infer(model, request(outputs=("output_ids", "num_output_tokens")))
    assert sorted(names) == ["num_output_tokens", "output_ids"]
    assert answer.outputs["output_ids"].shape == (1, 1, 6)
    assert answer.outputs["num_output_tokens"].tolist() == [[6]]


def test_the_timestamps_are_in_order(model):
    (answer,) = infer(model, request())
    times = [answer.outputs[name][0, 0] for name in OUTPUTS if name.endswith("_time_ns")]
    assert 0 < times[0] <= times[1] <= times[2] <= times[3] <= time.monotonic_ns()


def test_each_request_of_a_batch_gets_its_own_answer(model):
    texts = ("hello", "an order of two", "rank these candidates", "?", "five requests in four slots")
    alone = [completion(infer(model, request(text))[0]) for text in texts]
    assert [completion(answer) for answer in infer(model, *map(request, texts))] == alone
    assert len(set(map(tuple, alone))) > 1


def test_each_row_of_a_request_gets_its_own_answer(model):
    hello, order = (TOKENIZER.encode(text).ids for text in ("hello", "an order of two"))
    rows = [hello + [0] * (len(order) - len(hello)), order]
    (answer,) = infer(model, request_of_rows(rows, [len(hello), len(order)], 6))
    assert [completion(answer, row) for row in (0, 1)] == [
        completion(infer(model, request(text))[0]) for text in ("hello", "an order of two")
    ]


def test_the_output_begins_with_the_prompt_unless_it_is_excluded(model):
    with_prompt, without = infer(model, request(exclude_input_in_output=False), request())
    assert completion(with_prompt) == TOKENIZER.encode("hello").ids + completion(without)


def test_shorter_rows_are_padded_with_the_requests_pad_id(model):
    ids = TOKENIZER.encode("hello").ids
    limits = np.array([[2], [4]], np.int32)
    (answer,) = infer(model, request_of_rows([ids, ids], [len(ids)] * 2, limits, pad_id=9))
    assert answer.outputs["output_ids"][0, 0, 2:].tolist() == [9, 9]


@pytest.mark.parametrize("requested", [True, False])
def test_log_probabilities_are_returned_if_the_request_asks_for_them(model, requested):
    (answer,) = infer(model, request(return_log_probs=requested))
    assert ("cum_log_probs" in answer.outputs, "output_log_probs" in answer.outputs) == (requested, requested)


@pytest.mark.parametrize(("guide_type", "guide"), [("regex", b"(yes|no)!"), ("lark_grammar", b"start: /(yes|no)!/")])
def test_a_guided_answer_follows_its_guide(model, guide_type, guide):
    (answer,) = infer(model, guided(guide_type, guide))
    assert TOKENIZER.decode(completion(answer)) in ("yes!", "no!")


def test_a_guide_that_loses_its_place_is_an_invalid_argument(model, engine, monkeypatch):
    monkeypatch.setattr(engine[0]._grammars, "_clock", Clock(step_ns=1_000_000_000))
    (answer,) = infer(model, guided("lark_grammar", b"start: /[a-c]{30}/"))
    assert answer.status == "INVALID_ARG"
    assert answer.error == ("schema_too_complex: processor time of the guide's token masks in ms is 1000.0, limit 5")


def test_an_invalid_request_gets_an_error_and_the_others_an_answer(model):
    good, bad, other = infer(model, request(), request(beam_width=2), request())
    assert (bad.status, bad.error) == ("INVALID_ARG", "invalid_input: beam_width is 2, only 1 is supported")
    assert completion(good) == completion(other)


def test_tensors_that_cannot_be_read_are_logged_without_their_values(model, capsys):
    unreadable = request(stop_words_list=np.array([[b"secret"]], np.object_))
    bad, good = infer(model, unreadable, request())
    assert (bad.status, bad.error) == ("INVALID_ARG", "invalid_input: the request's tensors can't be read")
    assert good.error is None
    assert capsys.readouterr().err == '"can\'t read a request: ValueError"\n'


@pytest.mark.parametrize(
    ("guide_type", "guide", "error"),
    [
        ("regex", b"(", "schema_invalid: the regex guide does not compile"),
        ("xml", b"a", f"schema_invalid: {UNKNOWN_GUIDE_TYPE}"),
    ],
)
def test_a_guide_that_does_not_compile_is_an_error_of_its_request_alone(model, guide_type, guide, error):
    bad, good = infer(model, guided(guide_type, guide), request())
    assert (bad.status, bad.error) == ("INVALID_ARG", error)
    assert good.error is None


def test_a_guide_that_leaves_no_token_is_an_invalid_input(model):
    words = [TOKENIZER.encode(letter).ids for letter in "ab"]
    bad_words = np.array([[[i for word in words for i in word], np.cumsum([len(word) for word in words])]], np.int32)
    (answer,) = infer(model, guided("regex", b"[ab]", bad_words_list=bad_words))
    assert answer.status == "INVALID_ARG"
    assert answer.error.startswith("invalid_input: the guide, bad_words and min_tokens together")


def test_a_cancelled_request_ends_and_the_others_continue(model):
    cancelled, other = request(num_tokens=LONG), request()
    execute(model, cancelled, other)
    assert not cancelled.is_answered
    cancelled.cancel()
    assert (cancelled.answer().status, cancelled.answer().error) == ("CANCELLED", "the client cancelled the request")
    assert other.answer().error is None


def test_senders_are_used_on_the_clients_thread_only(model, monkeypatch):
    threads = set()

    def recording(method):
        def record(*arguments, **options):
            threads.add(threading.current_thread().name)
            return method(*arguments, **options)

        return record

    for name in ("send", "is_cancelled"):
        monkeypatch.setattr(pb_utils.ResponseSender, name, recording(getattr(pb_utils.ResponseSender, name)))
    ended = request(num_tokens=LONG)
    execute(model, request(), guided("regex", b"("), ended)
    ended.cancel()
    ended.answer()
    assert threads == {"engine-client"}


def test_a_failed_step_is_an_internal_error_of_all_running_requests(model, monkeypatch, capsys):
    def fail(batcher):
        raise ZeroDivisionError("a detail")

    with monkeypatch.context() as patch:
        patch.setattr(InFlightBatcher, "step", fail)
        answers = infer(model, request(), request())
    assert {(answer.status, answer.error) for answer in answers} == {
        ("INTERNAL", "internal: the engine failed during decoding")
    }
    assert "decode step failed: ZeroDivisionError at " in capsys.readouterr().err
    assert completion(infer(model, request())[0])


def test_a_request_for_which_memory_does_not_suffice_can_be_retried(model, monkeypatch):
    def fail(cache, num_tokens):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(SlotCache, "reserve", fail)
        (answer,) = infer(model, request())
    assert answer.status == "UNAVAILABLE"
    assert answer.error.startswith("overloaded: not enough memory")


def test_a_response_that_cannot_be_written_becomes_an_internal_error(modules, model, monkeypatch):
    monkeypatch.setattr(modules[1], "write_response", lambda *arguments, **options: 1 / 0)
    (answer,) = infer(model, request())
    assert (answer.status, answer.error) == ("INTERNAL", "internal: the response could not be written")


def test_finalize_answers_the_requests_in_flight_and_ends_the_thread(modules, engine):
    model = start_model(modules[0], engine[1])
    requests = [request(num_tokens=LONG), request(num_tokens=LONG)]
    execute(model, *requests)
    model.finalize()
    assert {(request.answer().status, request.answer().error) for request in requests} == {
        ("UNAVAILABLE", "draining: the engine is stopping")
    }
    assert not model._thread.is_alive()


def test_a_request_that_times_out_is_answered_with_the_tokens_that_it_has(model):
    late = request(num_tokens=400)
    late.set_timeout(1)
    (answer,) = infer(model, late)
    assert len(completion(answer)) < 400
    times = [answer.outputs[name][0, 0] for name in OUTPUTS if name.endswith("_time_ns")]
    assert times == sorted(times)
    assert times[3] - times[0] >= 1_000
