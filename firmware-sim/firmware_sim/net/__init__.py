"""Devices on the network: MQTT 5 sessions by the thousand, and the links they are behind. Knows no fleet and no ledger."""
