"""Measurements: what the policy costs, and how fast an engine is."""
