"""From a JSON Schema to a grammar, and validation of finished JSON against the schema."""
