"""Runs systems over splits, scores them, and says which differences are real."""
