"""Measures how well guides hold over a directory of schemas."""
