"""Sends one task of the demo as a chat, by OpenAI's own SDK through the front end."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from llmstack.client.ensemble_client import Reply
from llmstack.demo.cases import Case, TaskPrompt
from llmstack.server.openai_process import OpenAIProcess
from llmstack.server.ports import listen
from llmstack.server.process import TritonServer

_HOST, _TIMEOUT_S = "127.0.0.1", 60.0


def is_sdk_installed() -> bool:
    """Whether this environment has the package `openai`."""
    return find_spec("openai") is not None


def send_chat(server: TritonServer, prompt: TaskPrompt, case: Case) -> Reply:
    """Start the front end in front of `server`, send the prompt as a chat and stop it."""
    with listen(_HOST, "openai", 0) as listener:
        front_end = OpenAIProcess(listener, server.grpc_url, server.release_dir, server.log_path.parent)
        front_end.start()
        try:
            return _send(f"http://{_HOST}:{front_end.port}/v1", prompt, case)
        finally:
            front_end.stop()


def _send(url: str, prompt: TaskPrompt, case: Case) -> Reply:
    import openai

    client = openai.OpenAI(base_url=url, api_key="none", default_headers=dict(case.headers), timeout=_TIMEOUT_S)
    messages: list[Any] = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
    try:
        answer = client.chat.completions.create(model=f"ensemble:{prompt.task}", messages=messages)
    except openai.OpenAIError as error:
        return Reply({}, "", str(error))
    report: dict[str, Any] = (answer.model_extra or {}).get("llmstack", {})
    usage, choice = answer.usage, answer.choices[0]
    outputs: dict[str, list[Any]] = {
        **{name: value if isinstance(value, list) else [value] for name, value in report.items()},
        "text_output": [choice.message.content],
        "finish_reason": [choice.finish_reason],
        "guided": ["resolved_schema_id" in report],
        "engine_hash": [case.headers.get("X-Engine-Hash")],
    }
    if usage is not None:
        outputs |= {"num_input_tokens": [usage.prompt_tokens], "num_output_tokens": [usage.completion_tokens]}
    return Reply(outputs, "200")
