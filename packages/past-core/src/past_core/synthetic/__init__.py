"""Synthetic tissue: one simulated state, several renderings, every truth known."""
