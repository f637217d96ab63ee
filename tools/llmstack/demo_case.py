"""What `llmstack demo` sends, and what must come back."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from llm_policy.errors import Code
from llm_policy.headers import ENGINE_HASH, QUANTISATION
from llm_policy.release import Release
from llm_policy.tokenizer import Tokenizer
from llmstack.ensemble_client import Reply

LONG_PROMPT_TOKENS = 5_000
_SENTENCE = "Order 4711 was placed by Ada Lovelace on 3 May and shipped to Leeds in two parcels. "
# What a client may have to change: HTTP's status and gRPC's.
_REFUSED = ("400", "INVALID_ARGUMENT")

TASK_MESSAGES = {
    "generate_json": (
        "You turn an e-mail into an order. Answer with JSON only.",
        "Please send 12 desk lamps as a gift, it is urgent. My order number is ORD-4711 and nothing has left yet.",
    ),
    "rank_candidates": (
        "You rank four candidate replies from best to worst. Answer with JSON only.",
        "Question: when does my parcel arrive? A: On Tuesday, by noon. B: Soon. C: Ask the carrier. D: I like parcels.",
    ),
    "judge": (
        "You judge whether an answer is accurate, complete and polite. Answer with JSON only.",
        "Question: what is the capital of Australia? Answer: Sydney. Give a verdict and a score from 0 to 10.",
    ),
}


class Case(NamedTuple):
    """One request; `expected` is the code of its refusal, or empty when it must be answered."""

    name: str
    inputs: dict[str, Any]
    headers: dict[str, str]
    expected: str = ""

    def fault_of(self, reply: Reply) -> str:
        """What is wrong with a reply to this request; empty when it is as it should be."""
        if self.expected:
            return _refusal_fault(reply, self.expected)
        return _answer_fault(reply)


def demo_cases(release: Release) -> list[Case]:
    """Each task once, and each way to be refused once."""
    engine = release.manifest.engine
    right = {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation}
    judge = {"messages": _messages("judge"), "task": "judge"}
    long_prompt = _long_prompt(Tokenizer.load(release.tokenizer_dir))
    guide = {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": '{"type": "objekt"}'}
    return [
        *(Case(task, {"messages": _messages(task), "task": task}, right) for task in TASK_MESSAGES),
        Case("no header", judge, {}, Code.MISSING_HEADER.value),
        Case("wrong engine hash", judge, right | {ENGINE_HASH: _other_hash(engine.hash)}, "engine_hash_mismatch"),
        Case("wrong quantisation", judge, right | {QUANTISATION: "fp16"}, Code.QUANTISATION_MISMATCH.value),
        Case("5,000-token prompt", {"text_input": long_prompt}, right, Code.TOKEN_BUDGET_OVERRUN.value),
        Case("unknown task", judge | {"task": "write_poetry"}, right, Code.UNKNOWN_TASK.value),
        Case("broken schema", {"text_input": _SENTENCE, **guide}, right, Code.SCHEMA_INVALID.value),
    ]


def _messages(task: str) -> str:
    system, user = TASK_MESSAGES[task]
    return json.dumps([{"role": "system", "content": system}, {"role": "user", "content": user}])


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


def _answer_fault(reply: Reply) -> str:
    if reply.error:
        return f"refused: {reply.error}"
    try:
        json.loads(reply.first("text_output"))
    except (TypeError, ValueError):
        return "text_output is no JSON"
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
