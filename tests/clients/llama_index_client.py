"""LlamaIndex's `OpenAILike`."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.llms.types import ChatMessage  # type: ignore[import-not-found]
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-not-found]

from tests.clients.exercise import Prompt, Target, run_exercises
from tests.clients.forms import Order, Verdict


def llm(target: Target, **options: Any) -> OpenAILike:
    given = {"model": target.model, "default_headers": target.headers, "max_retries": 0, "temperature": 0.0}
    kinds = {"is_chat_model": True, "should_use_structured_outputs": True, **given, **options}
    return OpenAILike(api_base=target.base_url, api_key="none", **kinds)


def messages(prompt: Prompt) -> list[ChatMessage]:
    return [ChatMessage(role="system", content=prompt.system), ChatMessage(role="user", content=prompt.user)]


def structured(target: Target) -> Any:
    return llm(target).as_structured_llm(Order).chat(messages(target.order)).raw.model_dump()


def structured_nested(target: Target) -> Any:
    return llm(target).as_structured_llm(Verdict).chat(messages(target.claim)).raw.model_dump()


def structured_asynchronous(target: Target) -> Any:
    answer = asyncio.run(llm(target).as_structured_llm(Order).achat(messages(target.order)))
    return answer.raw.model_dump()


def response_format(target: Target) -> Any:
    schema = {"name": "order", "schema": Order.model_json_schema()}
    answer = llm(target).chat(messages(target.order), response_format={"type": "json_schema", "json_schema": schema})
    return answer.message.content


def chat(target: Target) -> Any:
    answer = llm(target, model=f"{target.model}:judge").chat(messages(target.claim))
    return {"text": answer.message.content, "counts": answer.additional_kwargs}


def stream(target: Target) -> Any:
    model = llm(target, max_tokens=24)
    return {
        "streamed": "".join(part.delta or "" for part in model.stream_chat(messages(target.order))),
        "whole": model.chat(messages(target.order)).message.content,
    }


def completion(target: Target) -> Any:
    model = llm(target, is_chat_model=False, max_tokens=12)
    return {
        "streamed": "".join(part.delta or "" for part in model.stream_complete("The order of Ada")),
        "whole": model.complete("The order of Ada").text,
    }


def tools(target: Target) -> Any:
    model = llm(target, should_use_structured_outputs=False, is_function_calling_model=True)
    return model.as_structured_llm(Order).chat(messages(target.order)).raw.model_dump()


def no_headers(target: Target) -> Any:
    return llm(target, default_headers={}).chat(messages(target.order)).message.content


if __name__ == "__main__":
    exercises = (
        *(structured, structured_nested, structured_asynchronous, response_format, chat, stream, completion),
        *(tools, no_headers),
    )
    run_exercises({each.__name__: each for each in exercises})
