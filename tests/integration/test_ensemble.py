"""The ensemble on the live server, over every protocol."""

import json
from concurrent.futures import ThreadPoolExecutor

import jsonschema_rs
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from tests.integration.client import Client
from tests.integration.live_service import wait_until

PROTOCOLS = ("http", "generate", "grpc")


@pytest.fixture(params=PROTOCOLS)
def client(request, server):
    return Client(server, request.param)


@pytest.fixture
def grpc(server):
    return Client(server, "grpc")


@pytest.fixture(scope="module")
def release(server):
    return Release.open(server.release_dir)


def texts(*values):
    return np.array([[value] for value in values], np.object_)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_answered_with_json_that_matches_its_schema(client, release, task):
    answer = client.send({"messages": '[{"role":"user","content":"Ada ordered 5 lamps."}]', "task": task})
    name = release.manifest.tasks[task].schema_id
    assert answer["resolved_schema_id"] == name
    assert (answer["guided"], answer["schema_valid"], answer["finish_reason"]) == (True, True, "stop")
    assert jsonschema_rs.is_valid(json.loads(release.schema_text(name)), json.loads(answer["text_output"]))


def test_an_answer_states_its_cost_and_engine(client, release):
    answer = client.send({"text_input": "hello", "max_tokens": 5})
    price = release.manifest.prices.per_token
    tokens = answer["num_input_tokens"], answer["num_output_tokens"]
    assert answer["cost_usd"] == pytest.approx(price.cost(*tokens) / 1e9, abs=0)
    assert answer["engine_hash"] == release.manifest.engine.hash
    assert (answer["guided"], answer["resolved_schema_id"]) == (False, "")


def test_clocks_are_in_order(grpc):
    answer = grpc.send({"text_input": "hello", "max_tokens": 5})
    order = ["arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"]
    clocks = [answer[name] for name in order]
    assert clocks == sorted(clocks)
    assert answer["queue_delay_us"] == (clocks[1] - clocks[0]) // 1_000


@pytest.mark.parametrize(
    ("kind", "guide", "allowed"),
    [
        ("regex", "[ab]{3}", {a + b + c for a in "ab" for b in "ab" for c in "ab"}),
        ("ebnf_grammar", 'root ::= "left" | "right"', {"left", "right"}),
        ("choice", '["oui", "näo", "\\"q\\""]', {"oui", "näo", '"q"'}),
        ("json_schema", '{"enum":["x",1,null]}', {'"x"', "1", "null"}),
    ],
)
def test_an_inline_guide_is_enforced(client, kind, guide, allowed):
    inputs = {"text_input": "hello", "guided_decoding_guide_type": kind, "guided_decoding_guide": guide}
    answer = client.send({**inputs, "max_tokens": 40})
    assert answer["text_output"] in allowed
    assert answer["schema_valid"]
    assert answer["resolved_schema_id"].startswith("sha256:")


def test_guide_type_json_needs_no_guide_text(grpc):
    answer = grpc.send({"text_input": "hello", "guided_decoding_guide_type": "json", "max_tokens": 60})
    assert answer["guided"]
    assert answer["schema_valid"] == (answer["finish_reason"] == "stop")


def test_a_truncated_answer_is_flagged_and_not_valid(grpc):
    answer = grpc.send({"text_input": "hello", "task": "generate_json", "max_tokens": 3})
    assert (answer["finish_reason"], answer["schema_valid"]) == ("length", False)
    assert "truncated" in np.ravel(answer["flags"])


def test_log_probs_are_returned_only_on_request(grpc):
    plain = grpc.send({"text_input": "hello", "max_tokens": 4})
    scored = grpc.send({"text_input": "hello", "max_tokens": 4, "return_log_probs": True})
    assert "output_log_probs" not in plain.outputs
    assert scored["cum_log_probs"] == pytest.approx(np.sum(scored["output_log_probs"]), rel=1e-4)


def test_the_prompt_is_returned_on_request(grpc):
    answer = grpc.send({"text_input": "hello there", "max_tokens": 4, "exclude_input_in_output": False})
    assert answer["text_output"].startswith("hello there")
    assert answer["num_output_tokens"] == 4


def test_a_stop_word_ends_the_answer_and_is_not_part_of_it(grpc):
    free = grpc.send({"text_input": "hello", "max_tokens": 6, "seed": 3})["text_output"]
    words = free.split(" ")
    stop = " " + next(word for word in words[1:] if word)
    cut = grpc.send({"text_input": "hello", "max_tokens": 6, "seed": 3, "stop_words": [stop]})
    assert len(cut["text_output"]) < len(free)
    assert free.startswith(cut["text_output"])


def test_the_same_seed_gives_the_same_answer(grpc):
    inputs = {"text_input": "hello", "max_tokens": 12, "temperature": 1.0, "seed": 2**64 - 1}
    assert grpc.send(inputs)["text_output"] == grpc.send(inputs)["text_output"]


def test_a_batch_gives_the_same_answers_as_single_rows(grpc):
    prompts = [b"short", b"a longer prompt about orders and people", b"Order 12", b"x"]
    tasks = [b"generate_json", b"rank_candidates", b"generate_json", b"rank_candidates"]
    alone = [
        grpc.send({"text_input": texts(prompt), "task": texts(task)}).outputs
        for prompt, task in zip(prompts, tasks, strict=True)
    ]
    together = grpc.send({"text_input": texts(*prompts), "task": texts(*tasks)})
    for name in (
        "text_output",
        "num_input_tokens",
        "num_output_tokens",
        "cost_usd",
        "resolved_schema_id",
        "schema_valid",
    ):
        assert [row[0] for row in together[name]] == [outputs[name] for outputs in alone]


def test_guided_and_unguided_rows_share_a_batch(grpc):
    answer = grpc.send(
        {
            "text_input": texts(b"a", b"b"),
            "schema_id": texts(b"", b"verdict"),
            "max_tokens": np.array([[9], [90]], np.int32),
        }
    )
    assert [row[0] for row in answer["guided"]] == [False, True]
    assert [row[0] for row in answer["schema_valid"]] == [False, True]


def test_an_invalid_row_is_reported_with_its_number(grpc):
    answer = grpc.send({"text_input": texts(b"a", b""), "max_tokens": np.array([[2], [2]], np.int32)})
    assert answer.code == "invalid_input"
    assert "(row 1)" in answer.error


def test_invalid_requests_do_not_affect_valid_ones_in_the_same_batch(server):
    """Valid and invalid requests are sent concurrently, so that Triton puts them into one preprocess batch."""
    valid = {"text_input": "hello", "task": "judge", "temperature": 0.0}
    invalid = [{"text_input": ""}, {"text_input": "x", "task": "no"}, {"text_input": "x", "max_tokens": -1}]
    client = Client(server, "grpc")
    expected = client.send(valid)["text_output"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(client.send, [valid, invalid[0], valid, invalid[1], valid, invalid[2]] * 5))
    assert [answer.code for answer in answers[1::2]] == ["invalid_input", "unknown_task", "invalid_input"] * 5
    assert {answer["text_output"] for answer in answers[::2]} == {expected}


def test_thirty_requests_at_concurrency_six_are_batched_in_flight(server):
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda n: Client(server, "grpc").send({"text_input": f"{n}", "max_tokens": 24}), range(30))
        )
    spans = [(answer["first_scheduled_time_ns"], answer["last_token_time_ns"]) for answer in answers]
    joined = sum(other[0] < start < other[1] for start, _ in spans for other in spans)
    assert joined > 0
    concurrency = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(concurrency) <= 4


def test_cancelled_requests_end_for_their_client_and_affect_no_other(server):
    # A request that has reached the engine continues there: Triton does not pass an ensemble's cancellation on.
    metadata = {name.lower(): value for name, value in Client(server, "grpc").headers.items()}
    text = triton_grpc.InferInput("text_input", [1, 1], "BYTES").set_data_from_numpy(texts(b"go on"))
    most = triton_grpc.InferInput("max_tokens", [1, 1], "INT32").set_data_from_numpy(np.array([[400]], np.int32))
    least = triton_grpc.InferInput("min_tokens", [1, 1], "INT32").set_data_from_numpy(np.array([[400]], np.int32))
    outcomes = []
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        calls = [
            client.async_infer(
                "ensemble", [text, most, least], lambda result, error: outcomes.append(error), headers=metadata
            )
            for _ in range(4)
        ]
        for call in calls:
            call.cancel()
        answer = Client(server, "grpc").send({"text_input": "hello", "max_tokens": 2})
        wait_until(lambda: len(outcomes) == 4)
    assert answer["num_output_tokens"] == 2
    assert all("CANCELLED" in str(error.status()) for error in outcomes)


def test_the_policys_stubs_load_no_torch_and_stay_below_200_mib(server):
    for stub in (server.stub("preprocess"), server.stub("postprocess")):
        assert stub.memory_info().rss < 200 << 20
        libraries = " ".join(mapping.path for mapping in stub.memory_maps())
        assert not [name for name in ("libtorch", "xgrammar", "tvm_ffi") if name in libraries]


def test_an_answer_that_ends_immediately_is_an_empty_text(grpc):
    inputs = {"guided_decoding_guide_type": "ebnf_grammar", "guided_decoding_guide": 'root ::= "a"?'}
    answer = grpc.send({"text_input": "hello", "max_tokens": 4, "bad_words": ["a"], **inputs})
    assert (answer["text_output"], answer["finish_reason"]) == ("", "stop")
    assert (answer["num_output_tokens"], answer["schema_valid"]) == (0, True)
