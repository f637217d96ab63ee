"""Release checks against a live server: the warm-up and the smoke run."""
