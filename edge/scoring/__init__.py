"""From samples to scores: windows, features, runtimes, calibration, detector. Pure apart from the runtimes."""
