"""Text and tokens: tokenizer, chat template, stop words."""
