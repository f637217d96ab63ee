"""What preprocess returns about a request: all of it, or what was known when a rule rejected it."""

import json

import numpy as np
import pytest

from llm_policy.errors import Code, Unavailable
from llm_policy.guidance.guide import EngineGuide, Guide, GuideResolver
from llm_policy.ledger.row_record import RowRecord
from llm_policy.rules.headers import CANARY_TENANT
from llm_policy.steps.preprocess import Preprocess, with_schema_ids
from tests.manifests import ENGINE_HASH, manifest, manifest_tree
from tests.tenants import MemoryDirectory

HEADERS = {"X-Engine-Hash": ENGINE_HASH, "X-Quantisation": "w4a8", "X-Tenant": "acme", "X-Request-Id": "r-1"}
SENDER = RowRecord(request_id="r-1", tenant="acme")
OVERLOADED = Unavailable(Code.OVERLOADED, "64 requests wait")
DRAINING = Unavailable(Code.DRAINING, "try another server")
TOKEN = "canary-token"


class Letters:
    """A tokenizer whose token n is the character n."""

    vocab_size, eos_id, pad_id = 256, 1, 0

    def encode_text(self, text):
        return np.array([ord(c) for c in text], np.int32)

    def encode_chat(self, messages, check_length):
        raise RecursionError("a bug")

    def min_tokens_of(self, text):
        return 0


def step(**changes):
    settings = manifest(**changes)
    return Preprocess(settings, Letters(), GuideResolver(settings.guidance, {"order": "{}"}), TOKEN)


def run(inputs, headers=HEADERS, of=None, **arguments):
    arrays = {name: np.array(value if isinstance(value, list) else [[value]]) for name, value in inputs.items()}
    for name, array in arrays.items():
        if array.dtype.kind in "US":
            arrays[name] = np.char.encode(array.astype(str)).astype(np.object_)
    directory = arguments.pop("tenants", MemoryDirectory())
    preprocess = of or step()
    return preprocess.run(arrays, preprocess.check(json.dumps(headers)), directory, **arguments)


def test_a_task_of_the_release_itself_has_its_own_sampling_and_is_listed():
    own = step(tasks={**manifest_tree()["tasks"], "summarise": {"temperature": 0.7, "max_tokens": 9}})
    prepared = run({"text_input": "hello", "task": "summarise"}, of=own)
    assert (prepared.records[0].task, prepared.records[0].max_completion_tokens) == ("summarise", 9)
    rejected = run({"text_input": "hello", "task": "write"}, of=own)
    assert "task is not one of generate_json, rank_candidates, judge, summarise" in str(rejected.error)
    assert rejected.records[0].task == ""


def test_an_admitted_row_has_a_complete_record_and_an_engine_row():
    prepared = run({"text_input": "hello", "task": "judge", "schema_id": "order", "max_tokens": 20, "stop_words": "ab"})
    assert prepared.error is None
    assert prepared.records == [
        SENDER._replace(
            task="judge",
            schema_id="order",
            guide_kind="json_schema",
            guide_text="{}",
            num_prompt_tokens=5,
            max_completion_tokens=20,
            prompt_nano_usd=5 * 100,
            projected_nano_usd=5 * 100 + 20 * 300,
            end_id=1,
            stop_words=((97, 98),),
        )
    ]
    (row,) = prepared.engine_rows
    assert (row.input_ids.tolist(), row.guide) == ([ord(c) for c in "hello"], Guide("json_schema", "{}", "order"))


GUIDED = SENDER._replace(task="judge", schema_id="order", guide_kind="json_schema", guide_text="{}")


@pytest.mark.parametrize(
    ("inputs", "code", "record"),
    [
        ({"task": "write"}, "unknown_task", SENDER),
        ({"top_k": -1}, "invalid_input", SENDER._replace(task="judge")),
        ({"schema_id": "ticket"}, "unknown_schema", SENDER._replace(task="judge")),
        ({"text_input": ""}, "invalid_input", GUIDED),
        ({"text_input": "x" * 4_097}, "token_budget_overrun", GUIDED._replace(num_prompt_tokens=4_097)),
        ({"max_tokens": 6_000}, "token_budget_overrun", GUIDED._replace(num_prompt_tokens=5)),
        (
            {"end_id": 256},
            "invalid_input",
            GUIDED._replace(
                num_prompt_tokens=5, max_completion_tokens=20, prompt_nano_usd=500, projected_nano_usd=6_500
            ),
        ),
    ],
)
def test_a_rejected_row_has_the_record_of_what_was_known(inputs, code, record):
    valid = {"text_input": "hello", "task": "judge", "schema_id": "order", "max_tokens": 20}
    prepared = run(valid | inputs)
    assert prepared.error.code.value == code
    assert (prepared.records, prepared.engine_rows) == ([record], [])


def test_a_row_rejected_for_its_cost_has_the_projected_cost():
    prices = {"input_usd_per_million": 100.0, "output_usd_per_million": 100.0}
    prepared = run({"text_input": "hello"}, of=step(prices=prices, on_cost_breach="reject"))
    assert prepared.error.code is Code.COST_BUDGET_OVERRUN
    assert prepared.records[0].projected_nano_usd == 6_000 * 100_000


def test_the_error_of_a_batch_names_the_row_and_every_row_has_a_record():
    prepared = run({"text_input": [["hello"], [""], ["you"]]})
    assert str(prepared.error) == "invalid_input: text_input is empty, at least 1 character is required (row 1)"
    assert [(row.row_number, row.num_prompt_tokens) for row in prepared.records] == [(0, 5), (1, 0), (2, 0)]
    assert prepared.engine_rows == []


def test_a_request_with_invalid_headers_has_a_record_for_each_row():
    prepared = run({"text_input": [["a"], ["b"]]}, {**HEADERS, "X-Quantisation": "fp16"})
    assert prepared.error.code is Code.QUANTISATION_MISMATCH
    assert prepared.records == [SENDER, SENDER._replace(row_number=1)]


def test_the_protocols_id_is_used_without_the_header():
    without = {name: value for name, value in HEADERS.items() if name != "X-Request-Id"}
    assert run({"text_input": "a"}, without, request_id="from-http").records[0].request_id == "from-http"
    assert run({"text_input": "a"}, HEADERS, request_id="from-http").records[0].request_id == "r-1"


def test_while_no_request_is_admitted_a_rejected_one_names_its_client():
    prepared = run({"text_input": "a"}, admission_error=DRAINING)
    assert (prepared.error, prepared.records) == (DRAINING, [SENDER])


def test_a_request_of_a_tenant_whose_share_of_the_queue_is_taken_is_rejected_before_its_inputs_are_read():
    prepared = run({"messages": "[]"}, refusal=lambda sender: OVERLOADED if sender.tenant == "acme" else None)
    assert (prepared.error, prepared.records) == (OVERLOADED, [SENDER])
    assert (
        run({"text_input": "a"}, refusal=lambda sender: OVERLOADED if sender.tenant == "other" else None).error is None
    )


@pytest.mark.parametrize(
    ("errors", "is_admitted"),
    [({"refusal": lambda sender: OVERLOADED}, True), ({"admission_error": DRAINING}, False)],
)
def test_the_canary_ignores_only_overloaded(errors, is_admitted):
    prepared = run({"text_input": "a"}, {**HEADERS, "X-Canary-Token": TOKEN}, **errors)
    assert (prepared.error is None) == is_admitted
    assert (prepared.records[0].tenant, prepared.records[0].is_canary) == (CANARY_TENANT, True)


def test_a_bug_in_a_rule_is_returned_with_the_records():
    prepared = run({"messages": "[]", "task": "judge"})
    assert isinstance(prepared.error, RecursionError)
    assert (prepared.records, prepared.engine_rows) == ([SENDER._replace(task="judge")], [])


def test_an_inline_guide_gets_the_schema_id_of_its_compiled_guide():
    compiled = EngineGuide("ebnf_grammar", "root ::= {}", "sha256:0123456789abcdef")
    assert with_schema_ids([SENDER, SENDER], [compiled, None]) == [
        SENDER._replace(schema_id="sha256:0123456789abcdef"),
        SENDER,
    ]
