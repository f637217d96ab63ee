"""Releases on their way into service and out of it."""
