"""`llmstack ledger`: what was asked, what it cost, and the proof that the books agree."""
