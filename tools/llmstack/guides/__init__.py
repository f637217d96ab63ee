"""Explains single guides, and measures how well guides work on a directory of schemas."""
