"""Stain vectors of an H-DAB slide from the slide itself, for laboratories off the presets.

Densities of stained pixels lie in the plane of the two stains, and the stains are the extreme directions in
it (Macenko et al. 2009). That holds for haematoxylin, which stands alone in negative nuclei. It does not
hold for nuclear DAB: brown nuclei hold haematoxylin too, no pixel is pure DAB, and the extreme direction
leans towards haematoxylin (which makes every DAB value 13 to 22 % too large on synthetic slides). So `auto`
takes haematoxylin and the plane from the slide, and for DAB the preset's direction laid into that plane;
`macenko` takes both ends, for stains whose DAB lies outside nuclei.
"""

from typing import Literal, NamedTuple

import numpy as np

from past_core.errors import PastError
from past_core.slides import Slide, tissue_mask
from past_core.stains import STAINS, StainSet
from past_vihc.hscore.quantify import White, density_tables

WINDOW = 256
WINDOWS = 64
"""Windows that are read, spread evenly over the tissue, in pixels of the view."""
LEAST_DENSITY = 0.15
"""Least optical density of a stained pixel, the mean of its channels (beta)."""
PERCENTILE = 1.0
"""Share, in per cent, of directions at either end that is taken for noise (alpha)."""
LEAST_DAB, LEAST_BROWN = 0.2, 0.005
"""DAB of a brown pixel by the preset, and the least share of stained pixels that must be brown."""
FURTHEST = 20.0
"""Largest angle between an estimate and the preset, in degrees; 30 lie between the presets'."""
LEAST_PIXELS = 1000


class StainEstimationError(PastError, ValueError):
    """A slide that its stains cannot be learned from."""


class StainEstimate(NamedTuple):
    """What was found.

    Attributes:
        stains: haematoxylin, DAB and the residual, named `auto` or `macenko`.
        pixels: stained pixels that were looked at.
        brown: share of them that is brown.
        from_preset: degrees between each vector and QuPath's.
    """

    stains: StainSet
    pixels: int
    brown: float
    from_preset: tuple[float, float]


def estimate_stains(
    slide: Slide, *, method: Literal["auto", "macenko"] = "auto", mpp: float = 0.5, white: White = 255.0
) -> StainEstimate:
    """Learns haematoxylin and DAB from a slide.

    Args:
        slide: an open IHC slide of known resolution.
        method: how DAB is found, see above.
        mpp: µm per pixel at which is looked.
        white: value of bare glass.

    Raises:
        StainEstimationError: too little tissue, or one stain alone, as on a negative slide.
    """
    pixels = _tissue_pixels(slide, mpp)
    return estimate_from_pixels(pixels, method=method, white=white, where=str(slide.path))


def estimate_from_pixels(
    pixels: np.ndarray,
    *,
    method: Literal["auto", "macenko"] = "auto",
    white: White = 255.0,
    where: str = "the image",
) -> StainEstimate:
    """The same from pixels on tissue, `(3, M)` uint8.

    Raises:
        StainEstimationError: too few stained pixels, or one stain alone.
    """
    tables = density_tables(white)
    density = np.stack([table[values] for table, values in zip(tables, pixels, strict=True)], axis=1)
    density = density[density.mean(axis=1) >= LEAST_DENSITY]
    preset = STAINS["qupath-hdab"].matrix
    brown = float((density @ np.linalg.inv(preset)[:, 1] >= LEAST_DAB).mean()) if len(density) else 0.0
    if len(density) < LEAST_PIXELS or not LEAST_BROWN <= brown <= 1 - LEAST_BROWN:
        raise StainEstimationError(
            f"{where}: {len(density)} stained pixels, {brown:.2%} of them brown; to learn both stains at "
            f"least {LEAST_PIXELS} are needed, and {LEAST_BROWN:.1%} of either. Name a stain set, or give "
            "the vectors of a positive slide of the same batch"
        )
    # The plane through the origin that holds most of the densities, and its normal.
    _, vectors = np.linalg.eigh(density.T @ density / len(density))
    normal, plane = vectors[:, 0], vectors[:, :0:-1]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    angle = np.arctan2(density @ plane[:, 1], density @ plane[:, 0])
    ends = np.percentile(angle, [PERCENTILE, 100 - PERCENTILE])
    haematoxylin, dab = sorted(
        (np.cos(end) * plane[:, 0] + np.sin(end) * plane[:, 1] for end in ends),
        key=lambda vector: vector[2],  # DAB absorbs blue
    )
    if method == "auto":
        dab = preset[1] - normal * (preset[1] @ normal)
    found = [np.maximum(vector, 0) for vector in (haematoxylin, dab)]
    found = [vector / np.linalg.norm(vector) for vector in found]
    away = (_degrees(found[0], preset[0]), _degrees(found[1], preset[1]))
    if max(away) > FURTHEST:
        raise StainEstimationError(
            f"{where}: the directions found lie {away[0]:.0f} and {away[1]:.0f} degrees from QuPath's "
            "haematoxylin and DAB: these seem to be other stains. Name a stain set, or give the vectors"
        )
    (a, b, c), (d, e, f) = (row.tolist() for row in found)
    stains = StainSet(method, ("haematoxylin", "dab", "residual"), ((a, b, c), (d, e, f)))
    return StainEstimate(stains, len(density), brown, away)


def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


def _tissue_pixels(slide: Slide, mpp: float) -> np.ndarray:
    """Pixels on tissue from windows spread over the slide: `(3, M)` uint8."""
    tissue, downsample = tissue_mask(slide)
    view = slide.at(max(mpp, slide.require_mpp()))
    ratio = view.downsample / downsample
    corners = []
    for top in range(0, view.height, WINDOW):
        for left in range(0, view.width, WINDOW):
            rows = slice(int(top * ratio), int((top + WINDOW) * ratio) + 1)
            columns = slice(int(left * ratio), int((left + WINDOW) * ratio) + 1)
            if tissue[rows, columns].any():
                corners.append((top, left))
    chosen = np.unique(np.linspace(0, len(corners) - 1, min(WINDOWS, len(corners))).round().astype(int))
    pixels = [np.zeros((3, 0), np.uint8)]
    for top, left in (corners[i] for i in chosen):
        height, width = min(WINDOW, view.height - top), min(WINDOW, view.width - left)
        window = view.read(top, left, height, width)
        y = np.minimum(((np.arange(top, top + height) + 0.5) * ratio).astype(int), tissue.shape[0] - 1)
        x = np.minimum(((np.arange(left, left + width) + 0.5) * ratio).astype(int), tissue.shape[1] - 1)
        pixels.append(window[:, tissue[np.ix_(y, x)]])
    return np.concatenate(pixels, axis=1)
