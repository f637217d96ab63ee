"""A client of the ensemble over each of its protocols."""
