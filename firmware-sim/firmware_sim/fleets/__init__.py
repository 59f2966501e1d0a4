"""A fleet on the air: plans, recordings, agents, sessions and ledger put together. The only part that knows all others."""
