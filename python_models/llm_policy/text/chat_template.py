"""Renders `messages` with the tokenizer's own chat template so that user text can't become a control token.

While the template runs, control tokens inside a message are replaced by placeholders that no client can guess. A
message that begins or ends with part of a control token, or is part of one, gets a separator at that end, so that the
adjacent text can't complete the token. The rendered text is then split at the template's own control tokens.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm_policy.errors import invalid_input

ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 256
# Parsing takes up to 25 times this memory. A prompt of 131,072 tokens has about 1.2 MB when escaped as \uXXXX.
MAX_MESSAGES_BYTES = 4 * 2**20


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


class PromptSegment(NamedTuple):
    """A segment of a rendered prompt: one control token of the template, or ordinary text."""

    text: str
    is_control: bool


class ChatTemplate:
    """One Jinja chat template, with its tokenizer's added tokens and the variables that it may use."""

    def __init__(self, source: str, control_tokens: tuple[str, ...], variables: Mapping[str, str]) -> None:
        """Compile `source`.

        Raises:
            ValueError: `source` is not a Jinja template.
        """
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise ValueError(f"the chat template does not compile: {error}") from None
        # transformers always defines these two, and templates test them.
        self._variables = {"tools": None, "documents": None, **variables}
        self._tokens = sorted(control_tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._tokens)) or "(?!)")
        self._prefixes = tuple({token[:end] for token in self._tokens for end in range(1, len(token))})
        self._suffixes = tuple({token[start:] for token in self._tokens for start in range(1, len(token))})
        # Digits only, so that no template filter changes their case.
        self._nonce = f"{secrets.randbits(128):039d}"
        self._separator = f"\u27ea{self._nonce}\u27eb"
        self._placeholder = re.compile(f"\u27ea{self._nonce}(?::(\\d+))?\u27eb")

    def render(self, messages: list[Message]) -> list[PromptSegment]:
        """The prompt of `messages`, up to where the answer begins, thinking off.

        Raises:
            InvalidRequest: `invalid_input`, the template raises an error (for example on the order of roles).
        """
        masked = [{"role": message.role, "content": self._mask(message.content)} for message in messages]
        try:
            rendered = self._template.render(
                {**self._variables, "messages": masked, "add_generation_prompt": True, "enable_thinking": False}
            )
        except TemplateError:
            raise invalid_input("the chat template rejects this sequence of messages") from None
        return self._split(rendered)

    def _mask(self, content: str) -> str:
        masked = self._pattern.sub(self._placeholder_of, content)
        # Templates trim contents, so white space at the ends is ignored here.
        core = masked.strip()
        if core.endswith(self._prefixes) or (core and any(core in token for token in self._tokens)):
            end = len(masked.rstrip())
            masked = masked[:end] + self._separator + masked[end:]
        if core.startswith(self._suffixes):
            start = len(masked) - len(masked.lstrip())
            masked = masked[:start] + self._separator + masked[start:]
        return masked

    def _placeholder_of(self, match: re.Match[str]) -> str:
        return f"\u27ea{self._nonce}:{self._tokens.index(match[0])}\u27eb"

    def _split(self, rendered: str) -> list[PromptSegment]:
        segments, end = [], 0
        for match in self._pattern.finditer(rendered):
            segments.append(PromptSegment(self._unmask(rendered[end : match.start()]), False))
            segments.append(PromptSegment(match[0], True))
            end = match.end()
        return [*segments, PromptSegment(self._unmask(rendered[end:]), False)]

    def _unmask(self, text: str) -> str:
        return self._placeholder.sub(lambda match: self._tokens[int(match[1])] if match[1] else "", text)


def parse_messages(raw: bytes | str) -> list[Message]:
    """Parse a JSON array of objects with exactly `role` and `content`, both strings.

    Raises:
        InvalidRequest: `invalid_input` with the position of the error, never with its text.
    """
    if len(raw) > MAX_MESSAGES_BYTES:
        raise invalid_input(f"messages has {len(raw)} bytes, limit {MAX_MESSAGES_BYTES}")
    messages = _parse_json(raw)
    if not isinstance(messages, _Array) or not 1 <= len(messages.items) <= MAX_MESSAGES:
        raise invalid_input(f"messages is not a JSON array of 1 to {MAX_MESSAGES} messages")
    return [_parse_message(number, item) for number, item in enumerate(messages.items)]


class _Array(NamedTuple):
    items: list[Any]


def _parse_json(raw: bytes | str) -> Any:
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        value = json.loads(text, object_pairs_hook=_Object, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        raise invalid_input("messages is not valid JSON") from None
    return _Array(value) if type(value) is list else value


class _Object(list):  # type: ignore[type-arg]
    """The members of a JSON object in order, duplicate names included."""


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _parse_message(number: int, item: Any) -> Message:
    if not isinstance(item, _Object) or sorted(name for name, _ in item) != ["content", "role"]:
        raise invalid_input(f"messages[{number}] is not an object with exactly role and content")
    members = dict(item)
    role, content = members["role"], members["content"]
    if role not in ROLES:
        raise invalid_input(f"messages[{number}].role is not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise invalid_input(f"messages[{number}].content is not a string")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise invalid_input(f"messages[{number}].content has an unpaired surrogate") from None
    return Message(role, content)


def _environment() -> ImmutableSandboxedEnvironment:
    """The same environment as in transformers (`utils/chat_template_utils.py`), so that templates behave the same."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
