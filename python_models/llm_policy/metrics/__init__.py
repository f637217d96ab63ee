"""Prometheus metrics of the policy."""
