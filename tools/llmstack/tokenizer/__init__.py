"""Tokenizer files: what guided decoding reads, and a real Qwen vocabulary for measurements."""
