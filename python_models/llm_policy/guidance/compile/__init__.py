"""Compiling guides in sandboxed child processes, and the cache of the results."""
