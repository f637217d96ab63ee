"""Upper bounds on one guide; a section of the manifest.

Every size is checked before any recursion and any compile. With the defaults real-world schemas pass, and XGrammar
compiles an ad-hoc schema in less than two seconds on one thread with a vocabulary of 150,000.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt


class GuideLimits(BaseModel):
    """Upper bounds on one guide. Sizes in bytes are of UTF-8 text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    max_bytes: PositiveInt = 262_144
    """Text of the guide as sent by the client."""
    max_depth: PositiveInt = 96
    """Nesting of JSON arrays and objects in the client's text; one object level of a schema counts as two."""
    max_subschemas: PositiveInt = 4_000
    max_properties: PositiveInt = 1_000
    """Properties declared by one subschema."""
    max_enum_entries: PositiveInt = 2_000
    max_enum_bytes: PositiveInt = 65_536
    """JSON text of all entries of one enum."""
    max_string_bytes: PositiveInt = 8_192
    """One property name, enum string or pattern inside a schema."""
    max_repeat: PositiveInt = 100_000
    """minItems, minLength and the like; a larger maximum is not enforced, and reported."""
    max_regex_bytes: PositiveInt = 2_048
    max_regex_depth: PositiveInt = 32
    max_regex_positions: PositiveInt = 2_000
    """Character positions of a regex with all bounded repeats expanded."""
    max_alternatives: PositiveInt = 256
    """Alternatives of one subschema with its combinators expanded (disjunctive normal form)."""
    max_automaton_states: PositiveInt = 256
    """States of one string automaton (the conjunction of patterns and lengths) of an ad-hoc schema. Four times as many
    for a registered schema, a regex and a client's grammar."""
    max_broad_states: PositiveInt = 48
    """Character classes of a client's regex or grammar that accept most characters: about 27 ms of compile time for
    each of their states."""
    max_counted_length: PositiveInt = 512
    """Longest minLength or maxLength that is written out for XGrammar, one rule for each character, if the budget of
    compile time allows it. A longer one is not enforced by the grammar, only by the validation of the finished text."""
    max_string_cost_ms: PositiveInt = 600
    """Estimated time that XGrammar needs to compile the patterns, lengths and undeclared property names of an ad-hoc
    schema. What costs more is approximated and reported."""
    max_registered_string_cost_ms: PositiveInt = 20_000
    """The same for a registered schema, which compiles before the server is ready."""
    max_rules: PositiveInt = 12_000
    """Rules of a grammar, planned or sent by the client."""
    max_shortest_text: PositiveInt = 100_000
    """Characters of the shortest text that satisfies the guide; a longer text can't fit into a completion."""
    max_grammar_bytes: PositiveInt = 400_000
    """Text of the grammar passed to the engine."""
    max_choices: PositiveInt = 1_000
    max_probe_steps: PositiveInt = 256
    """Tokens that the probe generates with a compiled grammar."""
    max_probe_ms: NonNegativeInt = 1_000
