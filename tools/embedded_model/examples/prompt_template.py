"""Random prompt formats: the instruction, its position, and the layout of the prompt's parts."""

from __future__ import annotations

import random
from typing import NamedTuple


class Prompt(NamedTuple):
    """A system message, empty for none, and the user message. Raw text instead of a chat when not `is_chat`."""

    system: str
    user: str
    is_chat: bool


class PromptTemplate(NamedTuple):
    """Instructions and layouts, the most frequent one first. A layout names the prompt's parts in braces."""

    instructions: tuple[str, ...]
    layouts: tuple[str, ...]

    def render(self, rng: random.Random, parts: dict[str, str]) -> Prompt:
        """Lay out the parts; the instruction is the system message, before or after the parts, or left out."""
        user = _prefer_first(rng, self.layouts).format_map(parts)
        instruction = _prefer_first(rng, self.instructions)
        position = rng.random()
        if position < 0.55:
            return Prompt(instruction, user, is_chat=True)
        is_chat = rng.random() < 0.8
        if position < 0.7:
            return Prompt("", f"{instruction}{rng.choice(_SEPARATORS)}{user}", is_chat)
        if position < 0.78:
            return Prompt("", f"{user}{rng.choice(_SEPARATORS)}{instruction}", is_chat)
        return Prompt("", user, is_chat)


_SEPARATORS = ("\n", "\n\n")


def _prefer_first(rng: random.Random, choices: tuple[str, ...]) -> str:
    return choices[0] if rng.random() < 0.4 else rng.choice(choices)
