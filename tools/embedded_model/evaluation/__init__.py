"""Evaluation of the model through a running ensemble."""
