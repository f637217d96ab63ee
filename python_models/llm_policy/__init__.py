"""The policy of an LLM request: who may ask, how much, in what shape, at what cost, and what is written down."""
