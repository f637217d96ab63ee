"""`POST /v1/chat/completions`: the request, and its translation to the ensemble's inputs."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from llmstack.openai.error import unsupported
from llmstack.openai.generation_request import GenerationRequest, Int32, Translation, translate_options


class ContentPart(BaseModel):
    """A part of a message's content; only text is supported."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["developer", "system", "user", "assistant", "tool", "function"] = Field(
        description="developer is read as system; tool and function are refused."
    )
    content: str | list[ContentPart] | None = None


class ChatRequest(GenerationRequest):
    """A request for a chat completion."""

    messages: list[ChatMessage]
    max_completion_tokens: Int32 | None = Field(None, description="Goes before max_tokens.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, description="Only 0: the engines tell the chosen token's alone.")

    @property
    def wants_log_probs(self) -> bool:
        """Whether the answer has log-probabilities."""
        return bool(self.logprobs)

    def translate(self, task: str) -> Translation:
        """The inputs of the ensemble.

        Raises:
            ApiError: a member can't be honoured.
        """
        if self.top_logprobs:
            raise unsupported("top_logprobs", "the engines tell the log-probability of the chosen token only; send 0")
        inputs, parameters = translate_options(self, task)
        inputs["messages"] = orjson.dumps([_message(number, each) for number, each in enumerate(self.messages)])
        parameters["messages"] = parameters["prompt"] = "messages"
        if self.max_completion_tokens is not None:
            inputs["max_tokens"], parameters["max_tokens"] = self.max_completion_tokens, "max_completion_tokens"
        if self.wants_log_probs:
            inputs["return_log_probs"] = True
        return Translation(inputs, parameters)


def _message(number: int, message: ChatMessage) -> dict[str, str]:
    param = f"messages[{number}]"
    if message.role in ("tool", "function"):
        raise unsupported(f"{param}.role", "tools are not supported")
    for name in ("tool_calls", "function_call", "audio"):
        if (message.model_extra or {}).get(name):
            raise unsupported(f"{param}.{name}", "only text is supported")
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": _content(f"{param}.content", message.content)}


def _content(param: str, content: str | list[ContentPart] | None) -> str:
    if isinstance(content, list):
        return "".join(_part(f"{param}[{number}]", part) for number, part in enumerate(content))
    return content or ""


def _part(param: str, part: ContentPart) -> str:
    text: Any = {"text": part.text, "input_text": part.text, "refusal": part.refusal}.get(part.type)
    if text is None:
        raise unsupported(f"{param}.type", f"a part of type {part.type[:32]!a}: only parts of type text, with a text")
    return str(text)
