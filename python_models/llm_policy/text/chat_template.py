"""Renders `messages` through the tokenizer's own chat template so that user text can't become a control token.

What looks like a control token inside a message is hidden behind a placeholder that no client can guess while the
template runs, and a message that begins or ends with a piece of one, or is one, is sealed, so that its neighbours can't
complete it. The rendered text is then cut at the control tokens that are the template's own.
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

from llm_policy.errors import Code, InvalidRequest

ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 256
# Parsing takes up to 25 times its bytes of memory. A prompt of 131,072 tokens has some 1.2 MB, escaped as \uXXXX.
MAX_MESSAGES_BYTES = 4 * 2**20


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


class Stretch(NamedTuple):
    """A piece of a rendered prompt: one control token of the template, or ordinary text."""

    text: str
    is_control: bool


class ChatTemplate:
    """One Jinja chat template. `control_tokens` are the added tokens of its tokenizer, `variables` what it may name."""

    def __init__(self, source: str, control_tokens: tuple[str, ...], variables: Mapping[str, str]) -> None:
        """Compile `source`.

        Raises:
            ValueError: it is no Jinja template.
        """
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise ValueError(f"the chat template does not compile: {error}") from None
        # transformers also names what there is none of, and templates ask for it.
        self._variables = {"tools": None, "documents": None, **variables}
        self._tokens = sorted(control_tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._tokens)) or "(?!)")
        self._heads = tuple({token[:end] for token in self._tokens for end in range(1, len(token))})
        self._tails = tuple({token[start:] for token in self._tokens for start in range(1, len(token))})
        # Digits alone: no filter of a template changes their case.
        self._nonce = f"{secrets.randbits(128):039d}"
        self._seal = f"\u27ea{self._nonce}\u27eb"
        self._placeholder = re.compile(f"\u27ea{self._nonce}(?::(\\d+))?\u27eb")

    def render(self, messages: list[Message]) -> list[Stretch]:
        """The prompt of `messages`, thinking off, up to where the answer begins.

        Raises:
            InvalidRequest: `invalid_input`, when the template refuses the order of roles.
        """
        turns = [{"role": message.role, "content": self._hide(message.content)} for message in messages]
        try:
            rendered = self._template.render(
                {**self._variables, "messages": turns, "add_generation_prompt": True, "enable_thinking": False}
            )
        except TemplateError:
            raise _invalid("the chat template refuses this sequence of messages") from None
        return self._cut(rendered)

    def _hide(self, content: str) -> str:
        hidden = self._pattern.sub(self._placeholder_of, content)
        # Templates trim: what counts are the ends without their white space.
        core = hidden.strip()
        if core.endswith(self._heads) or (core and any(core in token for token in self._tokens)):
            end = len(hidden.rstrip())
            hidden = hidden[:end] + self._seal + hidden[end:]
        if core.startswith(self._tails):
            start = len(hidden) - len(hidden.lstrip())
            hidden = hidden[:start] + self._seal + hidden[start:]
        return hidden

    def _placeholder_of(self, match: re.Match[str]) -> str:
        return f"\u27ea{self._nonce}:{self._tokens.index(match[0])}\u27eb"

    def _cut(self, rendered: str) -> list[Stretch]:
        stretches, end = [], 0
        for match in self._pattern.finditer(rendered):
            stretches.append(Stretch(self._show(rendered[end : match.start()]), False))
            stretches.append(Stretch(match[0], True))
            end = match.end()
        return [*stretches, Stretch(self._show(rendered[end:]), False)]

    def _show(self, text: str) -> str:
        return self._placeholder.sub(lambda match: self._tokens[int(match[1])] if match[1] else "", text)


def parse_messages(raw: bytes | str) -> list[Message]:
    """The messages in `raw`, a JSON array of objects with exactly role and content, both texts.

    Raises:
        InvalidRequest: `invalid_input`, with the position of what is wrong and never its text.
    """
    if len(raw) > MAX_MESSAGES_BYTES:
        raise _invalid(f"messages has {len(raw)} bytes, limit {MAX_MESSAGES_BYTES}")
    messages = _parse_json(raw)
    if not isinstance(messages, _Array) or not 1 <= len(messages.items) <= MAX_MESSAGES:
        raise _invalid(f"messages is no JSON array of 1 to {MAX_MESSAGES} messages")
    return [_parse_message(number, item) for number, item in enumerate(messages.items)]


class _Array(NamedTuple):
    items: list[Any]


def _parse_json(raw: bytes | str) -> Any:
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        value = json.loads(text, object_pairs_hook=_Object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise _invalid("messages is no valid JSON") from None
    return _Array(value) if type(value) is list else value


class _Object(list):  # type: ignore[type-arg]
    """The members of a JSON object in order, repeated names kept."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _parse_message(number: int, item: Any) -> Message:
    if not isinstance(item, _Object) or sorted(name for name, _ in item) != ["content", "role"]:
        raise _invalid(f"messages[{number}] is no object with role and content alone")
    members = dict(item)
    role, content = members["role"], members["content"]
    if role not in ROLES:
        raise _invalid(f"messages[{number}].role is not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise _invalid(f"messages[{number}].content is no text")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise _invalid(f"messages[{number}].content holds half a surrogate pair") from None
    return Message(role, content)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up (`utils/chat_template_utils.py`), so that templates mean the same."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _invalid(detail: str) -> InvalidRequest:
    return InvalidRequest(Code.INVALID_INPUT, detail)
