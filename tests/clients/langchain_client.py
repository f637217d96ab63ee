"""LangChain's `ChatOpenAI`."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

from tests.clients.exercise import Prompt, Target, run_exercises
from tests.clients.forms import Order, Verdict


def chat_model(target: Target, **options: Any) -> ChatOpenAI:
    given = {"model": target.model, "default_headers": target.headers, "max_retries": 0, **options}
    return ChatOpenAI(base_url=target.base_url, api_key="none", **given)


def messages(prompt: Prompt) -> list[tuple[str, str]]:
    return [("system", prompt.system), ("user", prompt.user)]


def structured(target: Target) -> Any:
    return chat_model(target).with_structured_output(Order).invoke(messages(target.order)).model_dump()


def structured_nested(target: Target) -> Any:
    return chat_model(target).with_structured_output(Verdict).invoke(messages(target.claim)).model_dump()


def structured_strict(target: Target) -> Any:
    runnable = chat_model(target).with_structured_output(Order, method="json_schema", strict=True, include_raw=True)
    answer = runnable.invoke(messages(target.order))
    raw = answer["raw"]
    return {
        "parsed": answer["parsed"].model_dump(),
        "usage": raw.usage_metadata,
        "finish_reason": raw.response_metadata["finish_reason"],
        "fingerprint": raw.response_metadata["system_fingerprint"],
    }


def structured_stream(target: Target) -> Any:
    *_, last = chat_model(target).with_structured_output(Order).stream(messages(target.order))
    return last.model_dump()


def json_mode(target: Target) -> Any:
    runnable = chat_model(target).with_structured_output(Order, method="json_mode")
    return runnable.invoke(messages(target.order)).model_dump()


def task_model(target: Target) -> Any:
    return chat_model(target, model=f"{target.model}:judge").invoke(messages(target.claim)).content


def stream(target: Target) -> Any:
    model = chat_model(target, max_tokens=24, stream_usage=True)
    chunks = list(model.stream(messages(target.order)))
    whole = model.invoke(messages(target.order))
    usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    return {
        "texts": ["".join(chunk.content for chunk in chunks), whole.content],
        "usage": [*usage, whole.usage_metadata],
        "num_chunks": len(chunks),
    }


def batch(target: Target) -> Any:
    runnable = chat_model(target).with_structured_output(Order)
    orders = asyncio.run(runnable.abatch([messages(target.order)] * 4))
    return [order.model_dump() for order in orders]


def tools(target: Target) -> Any:
    return chat_model(target).with_structured_output(Order, method="function_calling").invoke(messages(target.order))


def no_headers(target: Target) -> Any:
    return chat_model(target, default_headers={}).invoke(messages(target.order))


if __name__ == "__main__":
    run_exercises(
        {
            each.__name__: each
            for each in (
                *(structured, structured_nested, structured_strict, structured_stream, json_mode, task_model),
                *(stream, batch, tools, no_headers),
            )
        }
    )
