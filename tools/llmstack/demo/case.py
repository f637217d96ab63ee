"""What `llmstack demo` sends, and what must come back."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from embedded_model.example import Example
from embedded_model.filling import REGISTERED_SHAPES
from embedded_model.release import TRAINED_MODEL
from llm_policy.errors import Code
from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llm_policy.text.tokenizer import Tokenizer
from llmstack.client.ensemble_client import Reply

LONG_PROMPT_TOKENS = 5_000
_SENTENCE = "Order 4711 was placed by Ada Lovelace on 3 May and shipped to Leeds in two parcels. "
# What a client may have to change: HTTP's status and gRPC's.
_REFUSED = ("400", "INVALID_ARGUMENT")

_ORDER_SCHEMA = json.dumps(REGISTERED_SHAPES["order"].schema, separators=(",", ":"))

# One question a task, with the answer that a model of any use gives.
QUESTIONS = (
    Example(
        "generate_json",
        "Fill the schema from the text. Answer with JSON only.",
        f"Schema: {_ORDER_SCHEMA}\nText: Octavia Lovelace placed order ORD-4711. It asks for 12 pieces: telescope. "
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
    Example(
        "rank_candidates",
        "Rank the candidates. Answer with JSON only.",
        "Rank by delivery time, fastest first.\nA: Marguerite Drummond, 72 hours\nB: accordion, 18 hours\n"
        "C: Tallinn, 120 hours\nD: Kazimir Petrov, 36 hours",
        {"values": {"A": 72, "B": 18, "C": 120, "D": 36}, "ranking": ["B", "D", "A", "C"]},
    ),
    Example(
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
    """One request; `expected` is the code of its refusal, or empty when it must be answered, with `answer` if given."""

    name: str
    inputs: dict[str, Any]
    headers: dict[str, str]
    expected: str = ""
    answer: dict[str, Any] | None = None

    def fault_of(self, reply: Reply) -> str:
        """What is wrong with a reply to this request; empty when it is as it should be."""
        if self.expected:
            return _refusal_fault(reply, self.expected)
        return _answer_fault(reply, self.answer)


def demo_cases(release: Release) -> list[Case]:
    """Each task once, and each way to be refused once. Right answers are asked only of the model that was trained."""
    engine = release.manifest.engine
    is_trained = engine.model == TRAINED_MODEL
    right = {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}
    judge = _inputs(QUESTIONS[-1])
    long_prompt = _long_prompt(Tokenizer.load(release.tokenizer_dir))
    guide = {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": '{"type": "objekt"}'}
    return [
        *(Case(q.task, _inputs(q), right, answer=q.answer if is_trained else None) for q in QUESTIONS),
        Case("no header", judge, {}, Code.MISSING_HEADER.value),
        Case("wrong engine hash", judge, right | {ENGINE_HASH: _other_hash(engine.hash)}, "engine_hash_mismatch"),
        Case("wrong quantisation", judge, right | {QUANTISATION: "fp16"}, Code.QUANTISATION_MISMATCH.value),
        Case("5,000-token prompt", {"text_input": long_prompt}, right, Code.TOKEN_BUDGET_OVERRUN.value),
        Case("unknown task", judge | {"task": "write_poetry"}, right, Code.UNKNOWN_TASK.value),
        Case("broken schema", {"text_input": _SENTENCE, **guide}, right, Code.SCHEMA_INVALID.value),
    ]


def _inputs(question: Example) -> dict[str, Any]:
    return {**question.inputs(), "task": question.task}


def _long_prompt(tokenizer: Tokenizer) -> str:
    text = ""
    while len(tokenizer.encode_text(text)) < LONG_PROMPT_TOKENS:
        text += _SENTENCE * 10
    return text


def _other_hash(engine_hash: str) -> str:
    return engine_hash[:-1] + ("0" if engine_hash[-1] != "0" else "1")


def _refusal_fault(reply: Reply, expected: str) -> str:
    if reply.code != expected:
        return f"expected {expected}, got {reply.code or reply.error or 'an answer'}"
    return "" if reply.status in _REFUSED else f"expected status 400 or INVALID_ARGUMENT, got {reply.status}"


def _answer_fault(reply: Reply, wanted: dict[str, Any] | None) -> str:
    if reply.error:
        return f"refused: {reply.error}"
    try:
        answer = json.loads(reply.first("text_output"))
    except (TypeError, ValueError):
        return "text_output is no JSON"
    if wanted is not None and answer != wanted:
        return f"the right answer is {json.dumps(wanted)}, got {json.dumps(answer)}"
    delay = reply.first("queue_delay_us")
    checks = {
        "schema_valid is not true": reply.first("schema_valid") is True,
        "finish_reason is not stop": reply.first("finish_reason") == "stop",
        "cost_usd is not above 0": (reply.first("cost_usd") or 0) > 0,
        "num_input_tokens is not above 0": (reply.first("num_input_tokens") or 0) > 0,
        "num_output_tokens is not above 0": (reply.first("num_output_tokens") or 0) > 0,
        "queue_delay_us is missing or negative": (-1 if delay is None else delay) >= 0,
    }
    return "; ".join(fault for fault, holds in checks.items() if not holds)
