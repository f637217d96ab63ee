"""`llmstack bench`."""
