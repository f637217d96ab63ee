"""Architecture, weights and tokenizer of the embedded model, written without torch."""
