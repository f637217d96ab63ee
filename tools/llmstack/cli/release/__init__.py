"""`llmstack release`, `warmup` and `smoke`."""
