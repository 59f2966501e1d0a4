"""Vehicles as flight controllers: MAVLink 2 over UDP, for an agent, pymavlink or a ground station that listens."""
