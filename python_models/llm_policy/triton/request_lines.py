"""What the log says about one row: who asked, what became of it and what it took; never prompt text."""

from __future__ import annotations

from typing import Any

from llm_policy.errors import PolicyError
from llm_policy.steps.decision import Decision
from llm_policy.steps.postprocess import Answer
from llm_policy.steps.request_context import RequestContext

_NOTHING_TAKEN: dict[str, Any] = {
    "num_completion_tokens": 0,
    "cost_nano_usd": 0,
    "queue_delay_us": None,
    "flags": [],
}


def refused_lines(facts: RequestContext, refusal: PolicyError) -> list[dict[str, Any]]:
    """One line a row of a request that preprocess refused."""
    return [
        {
            **_who(facts, row.task, row.schema_id, row.num_prompt_tokens),
            **_NOTHING_TAKEN,
            "outcome": "refused",
            "code": refusal.code.value,
            "ledger_id": row.ledger_id,
        }
        for row in facts.rows
    ]


def withdrawn_line(decision: Decision, refusal: PolicyError) -> dict[str, Any]:
    """The line of a row that the engine answered and its client did not get."""
    who = _who(decision, decision.task, decision.schema_id, decision.num_prompt_tokens)
    return {**who, **_NOTHING_TAKEN, "outcome": "refused", "code": refusal.code.value, "ledger_id": decision.ledger_id}


def settled_line(answer: Answer) -> dict[str, Any]:
    """The line of an answered row."""
    decision = answer.decision
    return {
        **_who(decision, decision.task, decision.schema_id, decision.num_prompt_tokens),
        "num_completion_tokens": answer.num_output_tokens,
        "cost_nano_usd": answer.cost_nano_usd,
        "queue_delay_us": answer.queue_delay_us,
        "flags": answer.flags,
        "outcome": "settled",
        "code": "",
        "ledger_id": decision.ledger_id,
        "finish_reason": answer.finish_reason,
        "schema_valid": answer.schema_valid,
    }


def _who(known: RequestContext | Decision, task: str, schema_id: str, num_prompt_tokens: int) -> dict[str, Any]:
    return {
        "request_id": known.request_id,
        "trace_id": known.trace_id,
        "tenant": known.tenant,
        "task": task,
        "schema_id": schema_id,
        "canary": known.is_canary,
        "num_prompt_tokens": num_prompt_tokens,
    }
