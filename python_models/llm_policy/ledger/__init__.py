"""ledger.db: one row for each request row, metric totals, alerts and outgoing events."""
