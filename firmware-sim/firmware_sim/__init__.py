"""Simulated vehicles, faults and fleets with the truth beside them."""
