"""The agent on the device: windows, int8 scores, alarms, a durable outbox, updates. Imports covey only."""
