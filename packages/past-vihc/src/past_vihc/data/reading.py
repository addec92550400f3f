"""Which reader reads which data."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from past_vihc.data.default import default_pairs
from past_vihc.data.folders import paired_folders
from past_vihc.data.ihc4bc import ihc4bc, is_ihc4bc
from past_vihc.data.pairs import Pair, PairError, PairNotFoundError

logger = logging.getLogger(__name__)

Layout = Literal["auto", "folders", "ihc4bc"]


def read_layout(
    root: str | Path | None,
    layout: Layout = "auto",
    *,
    stains: Sequence[str],
    case_pattern: str | None = None,
    cache: str | Path | None = None,
    **synthetic: Any,
) -> list[Pair]:
    """Pairs of the wanted stains.

    Args:
        root: folder or sheet; None is the embedded default.
        layout: `folders`, `ihc4bc`, or `auto` to tell by looking.
        stains: names of stains; pairs of others are left out.
        case_pattern: of the layout `folders`, see `paired_folders`.
        cache: folder of the cache, of the embedded default.
        synthetic: `patients`, `size_um`, `misalignment_um` of the embedded default.

    Raises:
        PairError: an unknown layout, settings of the default for other data, or a stain without pairs.
        PairNotFoundError: nothing at `root`.
    """
    if not stains:
        raise PairError("data.stains is empty; name at least one stain")
    if root is None:
        return default_pairs(stains=stains, cache=cache, **synthetic)
    if synthetic.get("patients") is not None or synthetic.get("misalignment_um"):
        raise PairError(
            f"data.patients and data.misalignment_um are of the embedded default; leave them out for {root}"
        )
    root = Path(root)
    if not root.exists():
        raise PairNotFoundError(f"{root}: no such folder or sheet of pairs")
    if layout not in ("auto", "folders", "ihc4bc"):
        raise PairError(f"data.layout {layout!r}; expected auto, folders or ihc4bc")
    if layout == "ihc4bc" or (layout == "auto" and is_ihc4bc(root)):
        pairs = ihc4bc(root)
    else:
        pairs = paired_folders(root, case_pattern=case_pattern)
    have = sorted({pair.stain for pair in pairs})
    absent = [stain for stain in stains if stain not in have]
    if absent:
        raise PairError(f"{root}: no pairs of {', '.join(absent)}; there are pairs of {', '.join(have)}")
    left = sorted(set(have) - set(stains))
    if left:
        logger.info(
            "%s: pairs of %s are left out; data.stains is %s", root, ", ".join(left), ", ".join(stains)
        )
    return [pair for pair in pairs if pair.stain in stains]
