"""Defaults of the board. A light module: the options of commands are made of it."""

KEEP_ALERTS_DAYS = 90
