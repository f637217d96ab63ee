"""What is recorded of requests in ledger.db: rows, totals, alerts and outgoing events."""
