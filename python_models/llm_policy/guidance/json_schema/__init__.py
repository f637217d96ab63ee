"""Translates a JSON Schema to a grammar, and validates finished JSON against the schema."""
