"""How a prompt may be put: what the model is told to do and where, and how the parts are laid out."""

from __future__ import annotations

import random
from typing import NamedTuple


class Prompt(NamedTuple):
    """A system message, empty for none, and what the user says; outside of the chat format when not `is_chat`."""

    system: str
    user: str
    is_chat: bool


class Wording(NamedTuple):
    """Instructions and layouts, the most usual one first; a layout names the prompt's parts in braces."""

    instructions: tuple[str, ...]
    layouts: tuple[str, ...]

    def prompt(self, generator: random.Random, parts: dict[str, str]) -> Prompt:
        """The parts in one of the layouts; the instruction as system message, before or after the parts, or nowhere."""
        user = _often_the_first(generator, self.layouts).format_map(parts)
        instruction = _often_the_first(generator, self.instructions)
        place = generator.random()
        if place < 0.55:
            return Prompt(instruction, user, is_chat=True)
        is_chat = generator.random() < 0.8
        if place < 0.7:
            return Prompt("", f"{instruction}{generator.choice(_GAPS)}{user}", is_chat)
        if place < 0.78:
            return Prompt("", f"{user}{generator.choice(_GAPS)}{instruction}", is_chat)
        return Prompt("", user, is_chat)


_GAPS = ("\n", "\n\n")


def _often_the_first(generator: random.Random, choices: tuple[str, ...]) -> str:
    return choices[0] if generator.random() < 0.4 else generator.choice(choices)
