"""How many requests fit into a GPU's memory."""
