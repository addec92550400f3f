"""Staining of whole slides."""
