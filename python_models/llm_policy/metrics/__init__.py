"""Prometheus metrics of the policy: what processes measure, and the text that Prometheus scrapes."""
