"""What was sent and what was true: the ledger, and the report that compares it with the store."""
