"""Regular expressions: parsed, as automata, and as grammar expressions."""
