"""Guides: what a client may ask of the output's shape, and the grammar that the engine gets for it."""
