"""The store: schema, writer with exactly-once effect, reader."""
