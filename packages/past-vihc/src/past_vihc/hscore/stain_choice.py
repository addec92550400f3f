"""Which stain vectors a slide is unmixed with: named, measured on controls, or learned from the slide."""

import json
import logging
from pathlib import Path
from typing import Literal

import numpy as np

from past_core.errors import PastError
from past_core.slides import Slide
from past_core.stains import StainSet, stain_set
from past_vihc.hscore.stain_estimation import StainEstimationError, estimate_stains
from past_vihc.hscore.white import WhitePoint

logger = logging.getLogger(__name__)


class StainsError(PastError, ValueError):
    """A file of stain vectors that holds none."""


def choose_stains(
    ihc: Slide, stains: str | StainSet, glass: WhitePoint, *, mpp: float
) -> tuple[StainSet, dict[str, str]]:
    """The vectors that a slide is unmixed with, and a flag where they could not be learned from it.

    Args:
        ihc: an open IHC slide.
        stains: a set of haematoxylin and DAB, its name, `auto` or `macenko`, or a JSON file of vectors.
        glass: the slide's white point.
        mpp: µm per pixel at which is looked.

    Raises:
        StainsError: a set of other stains, or a file without vectors.
        StainError: no set of that name.
    """
    if stains == "auto" or stains == "macenko":
        method: Literal["auto", "macenko"] = "auto" if stains == "auto" else "macenko"
        try:
            return estimate_stains(ihc, method=method, mpp=mpp, white=glass.rgb).stains, {}
        except StainEstimationError as error:
            logger.warning("%s: QuPath's vectors are used", error)
            return stain_set("qupath-hdab"), {"stains-not-estimated": f"{error}; QuPath's vectors were used"}
    if isinstance(stains, str) and stains.lower().endswith(".json"):
        return read_stains(Path(stains)), {}
    chosen = stain_set(stains)
    if chosen.stains[:2] != ("haematoxylin", "dab"):
        raise StainsError(
            f"stain set {chosen.name!r} unmixes {', '.join(chosen.stains)}; expected haematoxylin and dab"
        )
    return chosen, {}


def read_stains(path: Path) -> StainSet:
    """Vectors from a JSON: `{"haematoxylin": [r, g, b], "dab": [r, g, b]}`, as measured on control slides.

    Raises:
        StainsError: no such file, or no two vectors of three positive numbers.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [[float(v) for v in content[name]] for name in ("haematoxylin", "dab")]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise StainsError(
            f"{path}: no stain vectors ({error}); expected a JSON with haematoxylin and dab, three "
            "numbers each"
        ) from error
    matrix = np.array(rows)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or (matrix < 0).any():
        raise StainsError(f"{path}: vectors {rows}; expected two of three numbers of at least 0")
    if np.linalg.matrix_rank(matrix) < 2:
        raise StainsError(f"{path}: haematoxylin and dab have one direction; nothing can be unmixed")
    (a, b, c), (d, e, f) = rows
    return StainSet(path.stem, ("haematoxylin", "dab", "residual"), ((a, b, c), (d, e, f)))
