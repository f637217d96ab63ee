"""Runs that prove a release: warm-up and eval slices, against a live server."""
