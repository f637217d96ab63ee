"""Synthetic examples of the three tasks. Everything that an answer holds stands in its prompt."""
