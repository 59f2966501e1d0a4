"""Model slots and updates over the air."""
