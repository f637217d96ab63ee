"""`POST /v1/completions`: the request, and its translation to the ensemble's inputs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

from llmstack.openai.error import unsupported
from llmstack.openai.generation_request import GenerationRequest, Translation, translate_options


def _null_is_absent(prompt: Any) -> Any:
    """OpenAI allows null. A member that is not required allows it by its type."""
    if prompt is None:
        raise PydanticKnownError("missing")
    return prompt


class CompletionRequest(GenerationRequest):
    """A request for the continuation of one text."""

    prompt: Annotated[str | list[str] | list[int] | list[list[int]], BeforeValidator(_null_is_absent)] = Field(
        description="One text, alone or in a list."
    )
    echo: bool | None = None
    logprobs: int | None = Field(None, description="Only 0: the engines tell the chosen token's alone.")

    @property
    def wants_log_probs(self) -> bool:
        """Whether the answer has log-probabilities."""
        return self.logprobs is not None

    def translate(self, task: str) -> Translation:
        """The inputs of the ensemble.

        Raises:
            ApiError: a member can't be honoured.
        """
        if self.logprobs:
            raise unsupported("logprobs", "the engines tell the log-probability of the chosen token only; send 0")
        if self.echo and self.wants_log_probs:
            raise unsupported("echo", "log-probabilities of the prompt are not known")
        inputs, parameters = translate_options(self, task)
        inputs["text_input"] = self._text()
        parameters["text_input"] = parameters["prompt"] = "prompt"
        if self.echo:
            inputs["exclude_input_in_output"] = False
        if self.wants_log_probs:
            inputs["return_log_probs"] = True
        return Translation(inputs, parameters)

    def _text(self) -> str:
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise unsupported("prompt", "exactly one text is supported, neither several nor token ids")
        return texts[0]
