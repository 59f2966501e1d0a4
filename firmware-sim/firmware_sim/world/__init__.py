"""The physics: vehicles, sensors, faults. SI units, seeded, vectorised."""
