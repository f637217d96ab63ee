"""What fits into a GPU's memory."""
