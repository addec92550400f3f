"""PAST."""
