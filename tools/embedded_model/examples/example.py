"""A prompt of a task with its only correct answer."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Example(NamedTuple):
    """What a client sends, and the answer it must get.

    An empty `system` means no system message. Without `schema` the task's registered schema applies. When not
    `is_chat`, `user` is sent as raw text, without the chat template.
    """

    task: str
    system: str
    user: str
    answer: dict[str, Any]
    schema: dict[str, Any] | None = None
    is_chat: bool = True

    @property
    def answer_text(self) -> str:
        """The answer as guided decoding writes it: JSON without spaces, members in the schema's order."""
        return json.dumps(self.answer, ensure_ascii=False, separators=(",", ":"))

    def messages(self) -> list[dict[str, str]]:
        """The chat messages."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    def inputs(self) -> dict[str, str]:
        """The prompt as the ensemble's input `messages` or `text_input`."""
        if not self.is_chat:
            return {"text_input": self.user}
        return {"messages": json.dumps(self.messages(), ensure_ascii=False)}
