"""Checks of the machine, the image and the settings, run before the stack starts: `llmstack doctor`."""
