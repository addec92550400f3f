"""Where on a slide there is tissue, and the grid of tiles that covers it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from past_core.slides.errors import SlideError
from past_core.slides.slide import Slide

MASK_MPP = 8.0
"""Resolution of the tissue mask in µm per pixel."""
CHROMA_RANGE = (10.0, 25.0)
"""Bounds of Otsu's threshold on chroma: white glass stays below them, pale eosin above."""
MASK_ROWS = 256
"""Rows of the mask that are made at a time, which bounds memory on slides without a pyramid."""


@dataclass(frozen=True)
class TileGrid:
    """Tiles of a slide that hold tissue.

    Attributes:
        centres: `(N, 2)` x, y of the tiles' centres in level-0 pixels.
        index: `(N, 2)` row and column in the grid.
        tissue: `(N,)` share of each tile that is tissue.
        tile_um: side of a tile in µm.
    """

    centres: np.ndarray
    index: np.ndarray
    tissue: np.ndarray
    tile_um: float


def tissue_mask(slide: Slide, *, mpp: float = MASK_MPP) -> tuple[np.ndarray, float]:
    """Tells tissue from glass by colour.

    Chroma, the largest minus the smallest channel, is high in stained tissue and low on white glass, grey
    dust and black masks alike; Otsu's threshold (bounded, so that a slide of nothing but tissue or nothing
    but glass is not split) is followed by a closing and the removal of specks.

    Args:
        slide: an open slide of known resolution.
        mpp: µm per pixel of the mask.

    Returns:
        the mask `(h, w)` bool, and level-0 pixels per pixel of the mask.

    Raises:
        SlideError: the slide's resolution is unknown.
    """
    from skimage.filters import threshold_otsu

    view = slide.at(max(mpp, slide.require_mpp()))
    chroma = np.empty((view.height, view.width), np.uint8)
    for top in range(0, view.height, MASK_ROWS):
        rows = min(MASK_ROWS, view.height - top)
        window = view.read(top, 0, rows, view.width)
        chroma[top : top + rows] = window.max(axis=0) - window.min(axis=0)
    smooth = ndimage.gaussian_filter(chroma.astype(np.float32), 1.0)
    otsu = threshold_otsu(smooth) if smooth.min() < smooth.max() else 0.0
    mask = smooth > np.clip(otsu, *CHROMA_RANGE)
    mask = ndimage.binary_closing(np.pad(mask, 3, mode="edge"), iterations=2)[3:-3, 3:-3]
    labels, count = ndimage.label(mask)
    speck = (4 * MASK_MPP / view.require_mpp()) ** 2
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= min(speck, mask.size / 4)
    keep[0] = False
    return keep[labels], view.downsample


def tile_grid(slide: Slide, *, tile_um: float, min_tissue: float = 0.25) -> TileGrid:
    """Squares of `tile_um` side by side from the slide's corner, those with enough tissue.

    The last row and column run over the border rather than leave a strip out.

    Args:
        slide: an open slide of known resolution.
        tile_um: side of a tile in µm.
        min_tissue: least share of a tile's area (within the slide) that must be tissue.

    Raises:
        SlideError: unknown resolution, a senseless size, or no tissue.
    """
    if not (np.isfinite(tile_um) and tile_um > 0):
        raise SlideError(f"tiles of {tile_um} µm; expected a positive number")
    side = tile_um / slide.require_mpp()
    if side < 1:
        raise SlideError(f"{slide.path}: tiles of {tile_um} µm are smaller than a pixel ({slide.mpp} µm)")
    mask, downsample = tissue_mask(slide)
    down, across = (max(1, int(np.ceil(length / side - 1e-9))) for length in (slide.height, slide.width))
    # Summed-area table: the tissue in any rectangle from four look-ups.
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    table[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    y = _edges(down, side / downsample, mask.shape[0])
    x = _edges(across, side / downsample, mask.shape[1])
    inside = (
        table[np.ix_(y[1], x[1])]
        - table[np.ix_(y[0], x[1])]
        - table[np.ix_(y[1], x[0])]
        + table[np.ix_(y[0], x[0])]
    )
    share = inside / np.maximum(np.outer(y[1] - y[0], x[1] - x[0]), 1)
    index = np.argwhere((share >= min_tissue) & (share > 0))
    if not len(index):
        raise SlideError(f"{slide.path}: no tissue found on {down} x {across} tiles of {tile_um} µm")
    centres = (index[:, ::-1] + 0.5) * side
    return TileGrid(centres, index, share[index[:, 0], index[:, 1]], float(tile_um))


def _edges(count: int, side: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last mask pixel of each tile, at least one pixel wide."""
    start = np.clip(np.floor(np.arange(count) * side + 0.5).astype(np.int64), 0, limit - 1)
    stop = np.clip(np.floor(np.arange(1, count + 1) * side + 0.5).astype(np.int64), start + 1, limit)
    return start, stop
