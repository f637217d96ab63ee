"""One prompt of a task with its only right answer."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Example(NamedTuple):
    """What a client sends, and what must come back.

    Without `system` there is no system message. Without `schema` the task's registered one applies. When not `is_chat`,
    `user` is sent as it is, outside of the chat format.
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

    def turns(self) -> list[dict[str, str]]:
        """The messages of the chat."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        return [*turns, {"role": "user", "content": self.user}]

    def inputs(self) -> dict[str, str]:
        """The prompt as the ensemble's `messages` or `text_input`."""
        if not self.is_chat:
            return {"text_input": self.user}
        return {"messages": json.dumps(self.turns(), ensure_ascii=False)}
