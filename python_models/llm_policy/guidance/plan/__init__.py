"""Planners: one for each type of guide, from the client's text to the guide that the engine gets."""
