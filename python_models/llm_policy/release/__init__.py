"""A release directory: its manifest, its files and their hashes."""
