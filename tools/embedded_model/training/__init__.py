"""Training: batches, the training loop, and the checkpoint that it writes."""
