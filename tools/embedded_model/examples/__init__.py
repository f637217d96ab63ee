"""Synthetic examples of the three tasks. The prompt states everything in the answer."""
