"""Context-free grammars: expressions, rules, and EBNF text read and written."""
