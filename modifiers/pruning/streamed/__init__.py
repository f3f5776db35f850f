"""One-shot pruning, layer by layer on calibration data."""
