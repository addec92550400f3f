"""LEADERBOARD.md and leaderboard.html from the files in `benchmarks/results`: nothing is run."""

from benchmarks.leaderboard.render import render

__all__ = ["render"]
