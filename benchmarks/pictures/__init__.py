"""Pictures of the leaderboard, made by the packages on the embedded default data."""

from pathlib import Path


def make_pictures() -> list[Path]:
    """Makes every picture; see `benchmarks.pictures.make`."""
    from benchmarks.pictures.make import make_all

    return make_all()
