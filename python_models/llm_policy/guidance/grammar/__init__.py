"""Context-free grammars as values: expressions, rules, EBNF text in and out."""
