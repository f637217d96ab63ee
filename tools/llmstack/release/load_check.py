"""What would keep a release from loading: the checks of the models' own load, and what to do about each finding.

A server finds the same only when it starts, in the text of a model that does not load.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llm_policy.errors import PolicyError
from llm_policy.guidance.backends.names import BACKENDS, ENVIRONMENT_VARIABLE, UnavailableBackend, usable_backends
from llm_policy.release.manifest import Manifest
from llm_policy.release.release import Release, ReleaseError
from llmstack.release.hugging_face import ModelDirectoryError, missing_weights, read_config, vocabulary_size
from llmstack.server.release import pick_engine

if TYPE_CHECKING:
    from llm_policy.text.tokenizer import Tokenizer

_RANDOM_WEIGHTS = "LLMSTACK_ENGINE_RANDOM_WEIGHTS"  # the portable engine then needs no weights
_ONE_MESSAGE = json.dumps([{"role": "user", "content": "Hello"}])
_NEXT_TEMPLATE = (
    "write the model's Jinja template to tokenizer/chat_template.jinja (`llmstack release create` takes it as "
    "--chat-template FILE); the template of a chat model of the same family fits only if its control tokens do"
)
_NEXT_TOKENIZER_FILE = "copy tokenizer.json and tokenizer_config.json from the model's source"
_NEXT_END = (
    "set eos_token in tokenizer_config.json to the token that ends an answer, one of tokenizer.json's added_tokens"
)
_NEXT_UNSUPPORTED = (
    "this model can't be served: the policy encodes byte-level BPE only, as of Qwen, Llama 3, GPT-2 and their relatives"
)


class LoadProblem(NamedTuple):
    """One reason why a release would not load, and what to do about it."""

    text: str
    next_step: str


class ReleaseWouldNotLoad(ValueError):
    """A server could not load the release; `problems` has the reasons and what to do about them."""

    def __init__(self, problems: Sequence[LoadProblem]) -> None:
        super().__init__("\n".join(problem.text for problem in problems))
        self.problems = tuple(problems)

    @property
    def next_step(self) -> str:
        """What to do, once for each different step."""
        return "\n       ".join(dict.fromkeys(problem.next_step for problem in self.problems))


def check_tokenizer(tokenizer_dir: Path) -> tuple[Tokenizer | None, LoadProblem | None]:
    """The tokenizer as the policy loads it, or why it can't; a message was rendered with its template."""
    from llm_policy.text.tokenizer import Tokenizer  # here, as commands that check nothing must start quickly

    try:
        tokenizer = Tokenizer.load(tokenizer_dir)
    except OSError as error:
        return None, LoadProblem(f"{error.filename}: {error.strerror}", _NEXT_TOKENIZER_FILE)
    except ValueError as error:
        return None, LoadProblem(str(error), _next_step(str(error)))
    try:
        tokenizer.encode_chat(_ONE_MESSAGE)
    except Exception as error:  # a template may raise anything
        reason = error.detail if isinstance(error, PolicyError) else f"{type(error).__name__}: {error}"
        return None, LoadProblem(f"the chat template does not take a user's message: {reason}", _NEXT_TEMPLATE)
    return tokenizer, None


def find_load_problems(directory: Path, manifest: Manifest) -> list[LoadProblem]:
    """Everything that would keep the release at `directory` from loading with `manifest`; empty when it would load."""
    tokenizer, problem = check_tokenizer(directory / "tokenizer")
    problems = [problem] if problem else []
    release = Release(directory.resolve(), manifest, "")
    engine = pick_engine(release)
    if engine != "tensorrtllm":
        problems += _engine_problems(release.engine_path, tokenizer)
    if tokenizer is not None:
        problems += _schema_problems(release, engine)
    return problems


def check_loads(directory: Path, manifest: Manifest) -> None:
    """Check that the release at `directory` would load with `manifest`.

    Raises:
        ReleaseWouldNotLoad: it would not; lists every reason.
    """
    if problems := find_load_problems(directory, manifest):
        raise ReleaseWouldNotLoad(problems)


def _next_step(reason: str) -> str:
    if "chat template" in reason:
        return _NEXT_TEMPLATE
    if "eos_token" in reason or "pad_token" in reason:
        return _NEXT_END if "eos_token" in reason else "delete pad_token from tokenizer_config.json, or add the token"
    return _NEXT_UNSUPPORTED if "supported is" in reason else _NEXT_TOKENIZER_FILE


def _engine_problems(engine_dir: Path, tokenizer: Tokenizer | None) -> Iterator[LoadProblem]:
    try:
        config = read_config(engine_dir)
    except ModelDirectoryError as error:
        yield LoadProblem(str(error), "put the model's config.json, or a TensorRT engine, into engine/")
        return
    missing = "" if os.environ.get(_RANDOM_WEIGHTS) == "1" else missing_weights(engine_dir)
    if missing:
        yield LoadProblem(missing, "put the model's safetensors into engine/")
    size = vocabulary_size(config)
    if tokenizer is not None and size is not None and tokenizer.vocab_size > size:
        yield LoadProblem(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, the model's vocab_size is {size}",
            "take tokenizer and model from the same source",
        )


def _schema_problems(release: Release, engine: str) -> Iterator[LoadProblem]:
    if not release.manifest.schemas or not release.tokenizer_info_path.is_file():
        return
    try:
        schemas = {name: release.schema_text(name) for name in sorted(release.manifest.schemas)}
    except ReleaseError as error:
        yield LoadProblem(str(error), "restore the file, or build the manifest again without it")
        return
    guidance = release.manifest.guidance
    taken = "xgrammar" if engine == "tensorrtllm" else ",".join(BACKENDS)
    try:
        backends = usable_backends(guidance.backend, {ENVIRONMENT_VARIABLE: taken})
    except UnavailableBackend as error:
        yield LoadProblem(str(error), "set guidance.backend in the manifest to auto")
        return
    installed = [name for name in backends if importlib.util.find_spec(name) is not None]
    if not installed:  # an installation without an engine; the server's has one
        return
    from llmstack.guides.registered_schemas import find_rejected_schemas

    rejected = find_rejected_schemas(release.tokenizer_info_path, guidance, schemas, installed)
    for name, reason in rejected.items():
        yield LoadProblem(
            f"registered schema {name}: {reason}",
            f"`llmstack guides explain {release.directory}/{release.manifest.schemas[name]}` shows more; "
            "correct or remove the schema, and build the manifest again",
        )
