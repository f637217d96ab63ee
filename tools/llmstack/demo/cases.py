"""The demo's requests, and the check of a reply to each."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from llm_policy.errors import Code
from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llm_policy.text.tokenizer import Tokenizer
from llmstack.client.ensemble_client import Reply

# The model in the embedded release. It is trained for the three tasks, so its answers must be correct; other models'
# answers must only be valid.
TRAINED_MODEL = "embedded-qwen3"
LONG_PROMPT_TOKENS = 5_000
_SENTENCE = "Order 4711 was placed by Ada Lovelace on 3 May and shipped to Leeds in two parcels. "
# The status of a rejected request over HTTP and over gRPC.
_REJECTED = ("400", "INVALID_ARGUMENT")

# The schema `order` of the embedded release, without its title.
ORDER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "pattern": "^ORD-[0-9]{4}$"},
        "customer": {"type": "string", "maxLength": 32},
        "product": {"type": "string", "maxLength": 32},
        "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
        "status": {"enum": ["pending", "packed", "shipped", "delivered", "cancelled"]},
        "gift": {"type": "boolean"},
    },
    "required": ["order_id", "customer", "product", "quantity", "status", "gift"],
    "additionalProperties": False,
}


class TaskPrompt(NamedTuple):
    """A prompt for one task with its correct answer."""

    task: str
    system: str
    user: str
    answer: dict[str, Any]

    def inputs(self) -> dict[str, Any]:
        """The inputs of the ensemble."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]
        return {"messages": json.dumps(messages), "task": self.task}


TASK_PROMPTS = (
    TaskPrompt(
        "generate_json",
        "Fill the schema from the text. Answer with JSON only.",
        f"Schema: {json.dumps(ORDER_SCHEMA, separators=(',', ':'))}\n"
        "Text: Octavia Lovelace placed order ORD-4711. It asks for 12 pieces: telescope. "
        "Each costs 89.95 dollars. Right now the parcel is packed. Deliver to Edinburgh. It is a gift.",
        {
            "order_id": "ORD-4711",
            "customer": "Octavia Lovelace",
            "product": "telescope",
            "quantity": 12,
            "status": "packed",
            "gift": True,
        },
    ),
    TaskPrompt(
        "rank_candidates",
        "Rank the candidates. Answer with JSON only.",
        "Rank by delivery time, fastest first.\nA: Marguerite Drummond, 72 hours\nB: accordion, 18 hours\n"
        "C: Tallinn, 120 hours\nD: Kazimir Petrov, 36 hours",
        {"values": {"A": 72, "B": 18, "C": 120, "D": 36}, "ranking": ["B", "D", "A", "C"]},
    ),
    TaskPrompt(
        "judge",
        "Judge whether the evidence supports the claim. Answer with JSON only.",
        "Evidence: The receipt is filed. On 2026-11-02 Gideon Nakamura spent 311.84 dollars in Seville.\n"
        "Claim: Gideon Nakamura paid 371.84 dollars in Seville on 2026-11-02.",
        {
            "checks": {"person": True, "amount": False, "date": True, "place": True},
            "failing_criterion": "amount",
            "verdict": "fail",
            "score": 7,
        },
    ),
)


class Case(NamedTuple):
    """One request. It must be rejected with `error_code`, or answered without one: with `answer` if that is given."""

    name: str
    inputs: dict[str, Any]
    headers: dict[str, str]
    error_code: str = ""
    answer: dict[str, Any] | None = None

    def find_fault(self, reply: Reply) -> str:
        """What is wrong with a reply to this request; empty when nothing is."""
        if self.error_code:
            return _error_fault(reply, self.error_code)
        return _answer_fault(reply, self.answer)


def demo_cases(release: Release) -> list[Case]:
    """A request for each task, and one for each kind of rejection."""
    engine = release.manifest.engine
    is_trained = engine.model == TRAINED_MODEL
    headers = {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}
    judge = TASK_PROMPTS[-1].inputs()
    long_prompt = _long_prompt(Tokenizer.load(release.tokenizer_dir))
    guide = {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": '{"type": "objekt"}'}
    return [
        *(Case(p.task, p.inputs(), headers, answer=p.answer if is_trained else None) for p in TASK_PROMPTS),
        Case("no header", judge, {}, Code.MISSING_HEADER.value),
        Case("wrong engine hash", judge, headers | {ENGINE_HASH: _other_hash(engine.hash)}, "engine_hash_mismatch"),
        Case("wrong quantisation", judge, headers | {QUANTISATION: "fp16"}, Code.QUANTISATION_MISMATCH.value),
        Case("5,000-token prompt", {"text_input": long_prompt}, headers, Code.TOKEN_BUDGET_OVERRUN.value),
        Case("unknown task", judge | {"task": "write_poetry"}, headers, Code.UNKNOWN_TASK.value),
        Case("broken schema", {"text_input": _SENTENCE, **guide}, headers, Code.SCHEMA_INVALID.value),
    ]


def _long_prompt(tokenizer: Tokenizer) -> str:
    text = ""
    while len(tokenizer.encode_text(text)) < LONG_PROMPT_TOKENS:
        text += _SENTENCE * 10
    return text


def _other_hash(engine_hash: str) -> str:
    return engine_hash[:-1] + ("0" if engine_hash[-1] != "0" else "1")


def _error_fault(reply: Reply, expected: str) -> str:
    if reply.code != expected:
        return f"expected {expected}, got {reply.code or reply.error or 'an answer'}"
    return "" if reply.status in _REJECTED else f"expected status 400 or INVALID_ARGUMENT, got {reply.status}"


def _answer_fault(reply: Reply, expected: dict[str, Any] | None) -> str:
    if reply.error:
        return f"rejected: {reply.error}"
    try:
        answer = json.loads(reply.first("text_output"))
    except (TypeError, ValueError):
        return "text_output is not JSON"
    if expected is not None and answer != expected:
        return f"expected {json.dumps(expected)}, got {json.dumps(answer)}"
    delay = reply.first("queue_delay_us")
    checks = {
        "schema_valid is not true": reply.first("schema_valid") is True,
        "finish_reason is not stop": reply.first("finish_reason") == "stop",
        "cost_usd is not above 0": (reply.first("cost_usd") or 0) > 0,
        "num_input_tokens is not above 0": (reply.first("num_input_tokens") or 0) > 0,
        "num_output_tokens is not above 0": (reply.first("num_output_tokens") or 0) > 0,
        "queue_delay_us is missing or negative": (-1 if delay is None else delay) >= 0,
    }
    return "; ".join(fault for fault, is_passed in checks.items() if not is_passed)
