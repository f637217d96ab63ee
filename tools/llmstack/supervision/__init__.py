"""Supervision of a server by its parent process: health checks, restarts, drains, readiness and metrics."""
