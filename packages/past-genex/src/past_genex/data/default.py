"""The slides that everything about expression runs on where none are given."""

from pathlib import Path

FIRST, PATIENTS = 6, 8
"""The patients: P6 to P13, two of each of the simulator's four cancer types."""
DIVERGENCE = 1.0
"""How far genes depart by cancer type and patient, see `past_core.synthetic.divergence`: without, the
settings would not differ."""


def default_cohort(*, cache: str | Path | None = None, patients: int = PATIENTS) -> list[Path]:
    """Slide stores of eight synthetic patients, made once into the user's cache.

    The demo encoder was trained on P1 to P3 and validated on P4 and P5; it has never seen any of these.

    Args:
        cache: folder of the cache; `PAST_CACHE`, else the user's.
        patients: how many of them.
    """
    from past_core.synthetic.default import default_slides

    return default_slides(cache=cache, first=FIRST, patients=patients, divergence=DIVERGENCE)
