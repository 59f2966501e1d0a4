"""Model families: fit locally, update, merge, compile. One file a family."""
