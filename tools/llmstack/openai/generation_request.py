"""What both kinds of completion request have in common, and how it becomes inputs of the ensemble.

No value has a default here: what a client leaves out, the release's task or the policy decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_policy.rules.sampling import RANGES
from llmstack.openai.error import ApiError, invalid, unsupported
from llmstack.openai.structured_output import GUIDES, OutputOptions, read_guide

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]  # a larger one would arrive as another number


def _ranged(name: str) -> Any:
    low, high = RANGES[name]
    return Field(ge=low, le=high)


Temperature = Annotated[float, _ranged("temperature")]
TopP = Annotated[float, _ranged("top_p")]
TopK = Annotated[int, _ranged("top_k")]
Penalty = Annotated[float, _ranged("presence_penalty")]
RepetitionPenalty = Annotated[float, _ranged("repetition_penalty")]
MinTokens = Annotated[int, _ranged("min_tokens")]


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = None


class GenerationRequest(OutputOptions):
    """The members of both endpoints. Unknown ones are ignored and named in the answer's header."""

    model: str = Field(description="The release's model, or `<model>:<task>`.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, description="Only 1.")
    max_tokens: Int32 | None = None
    min_tokens: MinTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    stop: str | list[str] | None = None
    bad_words: list[str] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def ignored(self) -> list[str]:
        """The names of members that have no effect."""
        return [name for name, value in (self.model_extra or {}).items() if value is not None]


class Translation(NamedTuple):
    """Inputs of the ensemble by name, and the request's name of each, for the `param` of errors."""

    inputs: dict[str, Any]
    parameters: dict[str, str]


# A member that changes the answer can't be ignored: its neutral values, and why others are refused.
_NO_TOOLS = "tools are not supported; use response_format to get structured output"
_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), _NO_TOOLS),
    "functions": (([],), _NO_TOOLS),
    "tool_choice": (("none", "auto"), _NO_TOOLS),
    "function_call": (("none", "auto"), _NO_TOOLS),
    "audio": ((), "audio is not supported"),
    "modalities": ((["text"],), "only text is supported"),
    "prediction": ((), "predicted outputs are not supported"),
    "web_search_options": ((), "web search is not supported"),
    "logit_bias": (({},), "the engines take no bias of single tokens"),
    "best_of": ((1,), "one answer is generated for each request"),
    "suffix": (("",), "text can't be inserted before a suffix"),
    "use_beam_search": ((False,), "beam search is not supported"),
    "prompt_logprobs": ((0, False), "log-probabilities of the prompt are not known"),
}
_AS_THEY_ARE = (
    *("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "bad_words", "task", "schema_id"),
)


def check_supported(request: GenerationRequest) -> None:
    """Refuse what can't be honoured.

    Raises:
        ApiError: `unsupported_parameter` or `invalid_input`, with `param`.
    """
    if request.n not in (None, 1):
        raise unsupported("n", f"it is {request.n}, only 1 is supported")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options is only allowed with stream: true")
    given = request.model_extra or {}
    if _REFUSED.keys().isdisjoint(given):
        return
    for name, (neutral, reason) in _REFUSED.items():
        value = given.get(name)
        if value is not None and value not in neutral:
            raise unsupported(name, reason)


def translate_options(request: GenerationRequest, task: str) -> Translation:
    """The inputs that don't depend on the endpoint. `task` is the one of the model's name; empty without one.

    Raises:
        ApiError: two members contradict each other, or one can't be honoured.
    """
    check_supported(request)
    given = request.model_fields_set
    inputs = {name: value for name in _AS_THEY_ARE if name in given and (value := getattr(request, name)) is not None}
    parameters = {name: name for name in inputs}
    if task:
        if request.task not in (None, task):
            raise invalid("task", f"task is {request.task[:64]!a}, but the model's name says {task[:64]!a}")
        inputs["task"], parameters["task"] = task, parameters.get("task", "model")
    if request.seed is not None:
        inputs["seed"] = request.seed % 2**64
    if request.stop:
        inputs["stop_words"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if not inputs.get("bad_words", True):
        del inputs["bad_words"]
    if not given.isdisjoint(GUIDES) and (guide := read_guide(request)):
        inputs["guided_decoding_guide_type"], inputs["guided_decoding_guide"] = guide.kind, guide.text
        parameters |= dict.fromkeys(("guided_decoding_guide_type", "guided_decoding_guide"), guide.param)
    parameters |= {"seed": "seed", "stop_words": "stop"}
    return Translation(inputs, parameters)


def validation_error(error: ValidationError) -> ApiError:
    """The first fault that pydantic found, without the value that the client gave.

    Of a member that may have several types, the fault is told that lies deepest: that type was meant.
    """
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    fault = max((each for each in faults if each["loc"][:1] == faults[0]["loc"][:1]), key=lambda each: len(each["loc"]))
    param = _path(fault["loc"])
    return invalid(param or None, f"{param or 'the body'}: {fault['msg']}")


def _path(location: tuple[int | str, ...]) -> str:
    """`messages[0].content`; the names of a union's types, which pydantic puts in between, are left out."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if _is_member(part)]
    return "".join(parts).lstrip(".")[:128]


def _is_member(part: int | str) -> bool:
    return isinstance(part, int) or (part.replace("_", "").isalnum() and part not in ("str", "int", "float", "bool"))
