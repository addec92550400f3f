"""Slides, targets, regions and splits of expression prediction."""
