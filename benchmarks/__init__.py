"""Benchmarks of PAST: `python -m benchmarks [NAME] [--profile ci|full]`."""
