"""Pairs of H&E and IHC, their curation, split and batches."""
