"""Clusters of measured and of predicted expression, and how they correspond."""
