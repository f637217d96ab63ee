"""The policy of an LLM request: who may ask, how much, in what shape, at what cost, and what is written down."""

# Part of what a verdict on a guide depends on: raise it when the planner changes.
__version__ = "0.1.0"
