"""Types of guides that the engine takes. A module without imports, because the echo engine needs it too."""

from __future__ import annotations

XGRAMMAR_TYPES = ("json", "json_schema", "regex", "ebnf_grammar")
LLGUIDANCE_TYPES = ("lark_grammar",)
GUIDE_TYPES = (*XGRAMMAR_TYPES, *LLGUIDANCE_TYPES)
UNKNOWN_GUIDE_TYPE = f"unknown guide type, allowed: {', '.join(GUIDE_TYPES)}"
