"""pydantic-ai's `Agent` on its model for OpenAI's chats."""

from __future__ import annotations

import asyncio
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput, PromptedOutput  # type: ignore[import-not-found]
from pydantic_ai.models.openai import OpenAIChatModel  # type: ignore[import-not-found]
from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found]

from tests.clients.exercise import Prompt, Target, run_exercises
from tests.clients.forms import Order, Verdict


def agent(target: Target, output: Any, prompt: Prompt, **options: Any) -> Agent[None, Any]:
    given = {"default_headers": target.headers, "max_retries": 0, **options}
    sdk = AsyncOpenAI(base_url=target.base_url, api_key="none", **given)
    model = OpenAIChatModel(target.model, provider=OpenAIProvider(openai_client=sdk))
    return Agent(model, output_type=output, system_prompt=prompt.system)


def structured(target: Target) -> Any:
    result = agent(target, NativeOutput(Order), target.order).run_sync(target.order.user)
    usage = result.usage
    usage = usage() if callable(usage) else usage
    return {
        "output": result.output.model_dump(),
        "requests": usage.requests,
        "tokens": [usage.input_tokens, usage.output_tokens],
    }


def structured_nested(target: Target) -> Any:
    return agent(target, NativeOutput(Verdict), target.claim).run_sync(target.claim.user).output.model_dump()


def structured_strict(target: Target) -> Any:
    return agent(target, NativeOutput(Order, strict=True), target.order).run_sync(target.order.user).output.model_dump()


def prompted(target: Target) -> Any:
    form = PromptedOutput(Order, template=False)
    return agent(target, form, target.order).run_sync(target.order.user).output.model_dump()


def stream(target: Target) -> Any:
    async def collect() -> Any:
        async with agent(target, NativeOutput(Order), target.order).run_stream(target.order.user) as run:
            outputs = [each async for each in run.stream_output(debounce_by=None)]
            return {"outputs": len(outputs), "last": outputs[-1].model_dump()}

    return asyncio.run(collect())


def text(target: Target) -> Any:
    async def collect() -> Any:
        settings: Any = {"max_tokens": 24}
        async with agent(target, str, target.order).run_stream(target.order.user, model_settings=settings) as run:
            return [each async for each in run.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(collect())


def tools(target: Target) -> Any:
    return agent(target, Order, target.order).run_sync(target.order.user).output.model_dump()


def no_headers(target: Target) -> Any:
    return agent(target, str, target.order, default_headers={}).run_sync(target.order.user).output


if __name__ == "__main__":
    exercises = (structured, structured_nested, structured_strict, prompted, stream, text, tools, no_headers)
    run_exercises({each.__name__: each for each in exercises})
