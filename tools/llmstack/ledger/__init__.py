"""Reports, exports and verification of the request ledger."""
