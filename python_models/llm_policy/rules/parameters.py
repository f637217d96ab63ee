"""Which request parameters are known; any other is an error, so that a misspelt input is not ignored.

Members of a `/generate` body that are no tensor become request parameters, and Triton passes them on without a word.
Over `/infer` and gRPC a client's `parameters` arrive in the same way, so an input's name among them has no effect
either. The error names what is nearest; it never quotes a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from llm_policy.api_key import without_keys
from llm_policy.rules.row_input import INPUT_NAMES

# What Triton takes itself. Over `/infer` and gRPC it keeps them to itself; on `/generate` it passes them on.
TRITON_PARAMETERS = frozenset(
    ("id", "timeout", "priority", "binary_data_output", "sequence_id", "sequence_start", "sequence_end")
)
# Reserved: Triton rejects them over `/infer` and gRPC, except its own, and may add more to a request.
TRITON_PREFIX = "triton_"
# Names in other APIs that are spelt unlike the ensemble's.
_OTHER_APIS = {
    "prompt": "text_input",
    "inputs": "text_input",
    "stop": "stop_words",
    "stop_sequences": "stop_words",
    "guided_json": "guided_decoding_guide",
    "response_format": "guided_decoding_guide",
}
MAX_QUOTED_CHARS = 64
MAX_DETAILS = 4


class ParameterNames:
    """The names that a request's parameters may have: headers in any case, and Triton's own."""

    def __init__(self, headers: Iterable[str], internal_headers: Iterable[str] = ()) -> None:
        """`internal_headers` are known too, but no client is told of them."""
        headers = tuple(headers)
        self._headers = {name.lower() for name in (*headers, *internal_headers)}
        names = (*INPUT_NAMES, *headers, "id", "timeout")
        self._by_spelling = {_spelling(name): name for name in names} | _OTHER_APIS

    def is_known(self, name: str) -> bool:
        """Whether a parameter of this name is allowed."""
        return name.lower() in self._headers or name in TRITON_PARAMETERS or name.startswith(TRITON_PREFIX)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """A text for each unknown name, `MAX_DETAILS` at most; the last then says how many more there are."""
        unknown = [name for name in dict.fromkeys(names) if not self.is_known(name)]
        details = [self._detail(name) for name in unknown[:MAX_DETAILS]]
        if num_more := len(unknown) - len(details):
            details[-1] += f" (and {num_more} more)"
        return details

    def _detail(self, name: str) -> str:
        if name in INPUT_NAMES:
            return f"{name} is an input, but was given as a request parameter, where it has no effect"
        detail = f"unknown parameter {without_keys(name)[:MAX_QUOTED_CHARS]!a}"
        nearest = self._nearest(name)
        return f"{detail}, did you mean {nearest}?" if nearest else detail

    def _nearest(self, name: str) -> str:
        """The known name that is spelt most like `name`; empty if none is similar."""
        if len(name) > MAX_QUOTED_CHARS:
            return ""
        found = get_close_matches(_spelling(name), self._by_spelling, n=1)
        return self._by_spelling[found[0]] if found else ""


def _spelling(name: str) -> str:
    return name.lower().replace("-", "_")
