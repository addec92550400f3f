"""Nuclear DAB, thresholds and the H-score."""
