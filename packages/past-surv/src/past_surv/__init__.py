"""Survival models on whole slides and genes with PAST embeddings."""
