"""Survival models on bags of patches and groups of genes; torch only."""
