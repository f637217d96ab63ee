"""The readiness board: what was released, what was measured and told, and who signed it."""
