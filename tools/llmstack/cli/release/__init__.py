"""`llmstack release`, `llmstack warmup` and `llmstack smoke`."""
