"""When is the target lost, and does it come back? Calibration of the thresholds, and what they reach on held-out clips."""
