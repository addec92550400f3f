"""The pairs that virtual staining runs on where none are given: synthetic patients."""

from collections.abc import Sequence
from pathlib import Path

from past_vihc.data.pairs import Pair


def default_pairs(
    *,
    stains: Sequence[str] = ("er",),
    patients: Sequence[str] | None = None,
    misalignment_um: float = 0.0,
    size_um: float = 625.0,
    cache: str | Path | None = None,
) -> list[Pair]:
    """Pairs of the simulator, made once into the user's cache; the demo encoder saw none of these patients.

    Args:
        stains: names of the stains.
        patients: names of patients; None is the simulator's choice.
        misalignment_um: how far the stained section is displaced, in µm; 0 is registered exactly.
        size_um: side of the field in µm.
        cache: folder of the cache; `PAST_CACHE`, else the user's.

    Returns:
        Pairs with the nuclei's label images and the simulator's truth.

    Raises:
        SyntheticError: patients or settings that the simulator does not know.
        DefaultSlidesError: the cache cannot be written.
    """
    from past_core.synthetic import pairs

    made = pairs.default_pairs(
        stains=tuple(stains),
        patients=None if patients is None else tuple(patients),
        misalignment_um=misalignment_um,
        size_um=size_um,
        cache=cache,
    )
    return [
        Pair(one.case, one.stain, one.he, one.ihc, mpp=one.mpp, nuclei=one.nuclei, truth=one.truth)
        for one in made
    ]
