"""Clients of the ensemble over its protocols."""
