"""Cohorts, groups of genes, splits, and what is learned from a training fold."""
