"""Upper bounds of one guide, a section of the manifest.

Everything is bounded before any recursion or any compile. With the defaults a real schema passes, and the token-mask
stage of XGrammar stays below two seconds on one thread with a vocabulary of 150,000.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt


class GuideLimits(BaseModel):
    """Upper bounds of one guide; a section of the manifest. Sizes in bytes are of UTF-8 text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    max_bytes: PositiveInt = 262_144
    """Text of the guide as the client sent it."""
    max_depth: PositiveInt = 96
    """Nesting of JSON arrays and objects in the client's text; an object level of a schema costs two."""
    max_subschemas: PositiveInt = 4_000
    max_properties: PositiveInt = 1_000
    """Properties declared by one subschema."""
    max_enum_entries: PositiveInt = 2_000
    max_enum_bytes: PositiveInt = 65_536
    """JSON text of one enum's entries together."""
    max_string_bytes: PositiveInt = 8_192
    """One property name, enum string or pattern inside a schema."""
    max_repeat: PositiveInt = 100_000
    """minItems, minLength and their like; a maximum above it is dropped and reported."""
    max_regex_bytes: PositiveInt = 2_048
    max_regex_depth: PositiveInt = 32
    max_regex_positions: PositiveInt = 2_000
    """Characters that a regex matches once all its bounded repeats are written out."""
    max_alternatives: PositiveInt = 256
    """Alternatives of one subschema once its combinators are multiplied out."""
    max_automaton_states: PositiveInt = 256
    """States of one string automaton (patterns and lengths that hold together)."""
    max_broad_states: PositiveInt = 48
    """Places of a client's own regex or grammar that take most characters: some 27 ms of compile time each."""
    max_counted_length: PositiveInt = 512
    """Longest minLength or maxLength that is counted. Short ones are written out; above about 16 each token inside such
    a string costs the engine some 60 ms for its mask. 16 or less here trades exactness for speed; the verdict on the
    finished text is exact either way."""
    max_string_cost_ms: PositiveInt = 600
    """Estimated compile time that a schema's patterns, lengths and undeclared names may take together."""
    max_rules: PositiveInt = 12_000
    """Rules of a grammar, ours or the client's."""
    max_shortest_text: PositiveInt = 100_000
    """Characters of the shortest text that satisfies the guide: more never fits into a completion."""
    max_grammar_bytes: PositiveInt = 400_000
    """Text of the grammar that the engine gets."""
    max_choices: PositiveInt = 1_000
    max_probe_steps: PositiveInt = 256
    """Tokens that the probe walks through a compiled grammar."""
    max_probe_ms: NonNegativeInt = 1_000
