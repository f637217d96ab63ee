"""Compiles guides in sandboxed worker processes and caches the reports."""
