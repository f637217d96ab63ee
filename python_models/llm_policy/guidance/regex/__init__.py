"""Regular expressions: parsed to a tree, to automata, and to grammar expressions."""
