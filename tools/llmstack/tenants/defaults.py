"""Bounds of the options of tenants. A light module: the options of commands are made of it."""

MAX_COUNT = 1_000_000_000_000
