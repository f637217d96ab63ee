"""Types of guides that an engine may take. A module without imports: the engine's clients need it too."""

from __future__ import annotations

XGRAMMAR_TYPES = ("json", "json_schema", "regex", "ebnf_grammar")
LLGUIDANCE_TYPES = ("lark_grammar",)
GUIDE_TYPES = (*XGRAMMAR_TYPES, *LLGUIDANCE_TYPES)
UNKNOWN_GUIDE_TYPE = f"unknown guide type, allowed: {', '.join(GUIDE_TYPES)}"


def guide_backend(guide_type: str) -> str:
    """The structured-output backend whose language a guide of this type is in."""
    return "llguidance" if guide_type in LLGUIDANCE_TYPES else "xgrammar"
