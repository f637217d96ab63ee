"""What `llmstack demo` sends, and what it expects back."""
