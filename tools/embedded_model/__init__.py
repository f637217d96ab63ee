"""The embedded release: a small model that does the three tasks without a GPU, and all that makes it."""
