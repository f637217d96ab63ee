"""instructor around the official SDK."""

from __future__ import annotations

import asyncio
from typing import Any

import instructor  # type: ignore[import-not-found]
import openai

from tests.clients.exercise import Target, run_exercises
from tests.clients.forms import Order, Parcel, Verdict


def options(target: Target, **more: Any) -> dict[str, Any]:
    given = {"base_url": target.base_url, "api_key": "none", "default_headers": target.headers, "max_retries": 0}
    return {**given, **more}


def client(target: Target, mode: instructor.Mode = instructor.Mode.JSON_SCHEMA, **more: Any) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(**options(target, **more)), mode=mode)


def request(target: Target) -> dict[str, Any]:
    return {
        "model": target.model,
        "messages": target.order.messages,
        "response_model": Order,
        "max_retries": 0,
    }


def structured(target: Target) -> Any:
    order, completion = client(target).chat.completions.create_with_completion(**request(target))
    return {
        "output": order.model_dump(),
        "finish_reason": completion.choices[0].finish_reason,
        "report": completion.model_extra["llmstack"],
    }


def structured_nested(target: Target) -> Any:
    asked = {**request(target), "messages": target.claim.messages, "response_model": Verdict}
    return client(target).chat.completions.create(**asked).model_dump()


def json_mode(target: Target) -> Any:
    asked = {**request(target), "response_model": Parcel}
    return client(target, instructor.Mode.JSON).chat.completions.create(**asked).model_dump()


def partial(target: Target) -> Any:
    steps = list(client(target).chat.completions.create_partial(**request(target)))
    return {"steps": len(steps), "last": steps[-1].model_dump()}


def asynchronous(target: Target) -> Any:
    async def ask() -> Any:
        sdk = openai.AsyncOpenAI(**options(target))
        wrapped = instructor.from_openai(sdk, mode=instructor.Mode.JSON_SCHEMA)
        orders = await asyncio.gather(*(wrapped.chat.completions.create(**request(target)) for _ in range(4)))
        return [order.model_dump() for order in orders]

    return asyncio.run(ask())


def extra_body(target: Target) -> Any:
    asked = {**request(target), "extra_body": {"seed": 7, "min_tokens": 1}}
    return client(target).chat.completions.create(**asked).model_dump()


def tools(target: Target) -> Any:
    return client(target, instructor.Mode.TOOLS).chat.completions.create(**request(target)).model_dump()


def no_headers(target: Target) -> Any:
    return client(target, default_headers={}).chat.completions.create(**request(target)).model_dump()


if __name__ == "__main__":
    exercises = (structured, structured_nested, json_mode, partial, asynchronous, extra_body, tools, no_headers)
    run_exercises({each.__name__: each for each in exercises})
