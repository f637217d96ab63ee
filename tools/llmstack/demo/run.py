"""Sends the demo's requests to a running server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llmstack.client.ensemble_client import PROTOCOLS, Reply, Server
from llmstack.client.stream_client import send_stream
from llmstack.demo.cases import TASK_PROMPTS, Case
from llmstack.demo.openai_chat import is_sdk_installed, send_chat
from llmstack.server.process import TritonServer

WAYS = {**PROTOCOLS, "HTTP SSE": send_stream}
"""Every way to send a request to Triton, by its name; the last one streams the answer."""
OPENAI_SDK = "OpenAI SDK"


class CaseResult(NamedTuple):
    """The result of one request over one protocol; `fault` is empty when the reply is as expected."""

    protocol: str
    case: str
    answer: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    queue_delay_us: int | None
    flags: list[str]
    fault: str


def run_cases(server: Server, cases: Iterable[Case]) -> Iterator[CaseResult]:
    """Send each case in each way, and yield its result."""
    for case in cases:
        for protocol, send in WAYS.items():
            yield _result(protocol, case, send(server, case.inputs, case.headers))


def run_chat(server: TritonServer, cases: Iterable[Case]) -> Iterator[CaseResult]:
    """Send the first task as a chat by OpenAI's SDK, and yield its result; nothing where the SDK is not installed."""
    prompt = TASK_PROMPTS[0]
    for case in cases:
        if case.name == prompt.task and is_sdk_installed():
            yield _result(OPENAI_SDK, case, send_chat(server, prompt, case))


def _result(protocol: str, case: Case, reply: Reply) -> CaseResult:
    return CaseResult(
        protocol=protocol,
        case=case.name,
        answer=reply.error.removeprefix("in ensemble 'ensemble', ") or str(reply.first("text_output")),
        prompt_tokens=reply.first("num_input_tokens"),
        completion_tokens=reply.first("num_output_tokens"),
        cost_usd=reply.first("cost_usd"),
        queue_delay_us=reply.first("queue_delay_us"),
        flags=[flag for flag in reply.outputs.get("flags", []) if flag],
        fault=case.find_fault(reply),
    )
