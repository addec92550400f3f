"""Runs systems over cohorts, folds and seeds, scores them, and compares them."""
