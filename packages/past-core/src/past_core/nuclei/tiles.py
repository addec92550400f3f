"""The tile loop of every segmenter: a tile with what lies around it, and ownership by centroid."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from past_core.nuclei.slidewide import SlideWide
from past_core.nuclei.watershed import WatershedSettings, haematoxylin, watershed_labels
from past_core.slides import Slide


class Segmenter(Protocol):
    """What finds nuclei in a window of a slide.

    Attributes:
        name: stamped on every result.
        parameters: likewise, beside the slide's own figures.
        halo: pixels around a tile that it must see to find there what it would on the whole slide.
        align: windows start and end at multiples of this, unless the slide ends before.
    """

    name: str
    parameters: dict[str, Any]
    halo: int
    align: int

    def labels(self, image: np.ndarray, amount: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """`(h, w)` int32 for an image `(3, h, w)` uint8, its haematoxylin `(h, w)`, and its corner's x, y."""
        ...


class WatershedSegmenter:
    """See `past_core.nuclei.watershed`.

    Args:
        wide: what was decided for the whole slide.
        mpp: µm per pixel of the windows.
        settings: of the watershed.
    """

    name, align = "watershed", 1

    def __init__(self, wide: SlideWide, mpp: float, settings: WatershedSettings) -> None:
        self._threshold, self._mpp, self._settings = wide.threshold, mpp, settings
        self.halo = int(np.ceil(settings.halo_um / mpp))
        self.parameters: dict[str, Any] = {}

    def labels(self, image: np.ndarray, amount: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """See `Segmenter`."""
        return watershed_labels(
            amount, mpp=self._mpp, threshold=self._threshold, settings=self._settings, corner=corner
        )


@dataclass(frozen=True)
class NucleusTile:
    """The nuclei that one tile owns.

    Attributes:
        left: column of `labels` in the view, which may be negative.
        top: row, likewise.
        labels: `(h, w)` int32 over the tile with what lies around it; only labels of `owned` count.
        owned: labels of the nuclei whose centroid lies in the tile and on tissue.
        centroids: `(n, 2)` x, y in pixels of the view from its corner.
        area: `(n,)` pixels.
        haematoxylin: `(n,)` mean optical density.
        downsample: level-0 pixels per pixel of the view.
    """

    left: int
    top: int
    labels: np.ndarray
    owned: np.ndarray
    centroids: np.ndarray
    area: np.ndarray
    haematoxylin: np.ndarray
    downsample: float


def nucleus_tiles(
    slide: Slide,
    wide: SlideWide,
    *,
    mpp: float = 0.5,
    tile: int | None = 1024,
    settings: WatershedSettings | None = None,
    segmenter: Segmenter | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[NucleusTile]:
    """The nuclei of each tile with tissue.

    A nucleus belongs to the tile that its centroid lies in; tiles are read with so much around them that each
    is seen as it is on the whole slide.

    Args:
        slide: an open slide.
        wide: what was decided for the whole slide, see `slide_wide`.
        mpp: µm per pixel.
        tile: side of a tile in pixels; None takes the slide as one.
        settings: of the watershed, and of the haematoxylin that is measured.
        segmenter: finds the nuclei of a window; the watershed if none is given.
        progress: called with tiles done and tiles in all.

    Yields:
        Tiles that own at least one nucleus.
    """
    settings = settings or WatershedSettings()
    view = slide.at(mpp)
    segmenter = segmenter or WatershedSegmenter(wide, view.require_mpp(), settings)
    tile = max(view.height, view.width) if tile is None else tile
    halo, step = segmenter.halo, segmenter.align
    corners = [(y, x) for y in range(0, view.height, tile) for x in range(0, view.width, tile)]
    ratio = wide.downsample / view.downsample
    for done, (y, x) in enumerate(corners):
        if progress is not None:
            progress(done, len(corners))
        bottom, right = min(y + tile, view.height), min(x + tile, view.width)
        if not _any_tissue(wide, (x / ratio, y / ratio, right / ratio, bottom / ratio)):
            continue
        # The slide ends where it ends, also for a tile at its border: white around it would change means.
        top, left = (max(0, (start - halo) // step * step) for start in (y, x))
        height = min(-(-(bottom + halo) // step) * step, view.height) - top
        width = min(-(-(right + halo) // step) * step, view.width) - left
        image = view.read(top, left, height, width)
        amount = haematoxylin(
            image, white=wide.white, stains=settings.stains, sigma=settings.smooth_um / view.require_mpp()
        )
        labels = segmenter.labels(image, amount, (left, top))
        made = _owned(labels, amount, (left, top), (x, y, right, bottom), view.downsample, wide)
        if len(made.owned):
            yield made
    if progress is not None:
        progress(len(corners), len(corners))


def _any_tissue(wide: SlideWide, box: tuple[float, float, float, float]) -> bool:
    """Whether a box (in pixels of the mask) shows any; the mask may end a pixel before the slide does."""
    x0, y0, x1, y1 = box
    height, width = wide.tissue.shape
    rows = slice(min(int(y0), height - 1), int(np.ceil(y1)))
    columns = slice(min(int(x0), width - 1), int(np.ceil(x1)))
    return bool(wide.tissue[rows, columns].any())


def _owned(
    labels: np.ndarray,
    amount: np.ndarray,
    corner: tuple[int, int],
    core: tuple[int, int, int, int],
    downsample: float,
    wide: SlideWide,
) -> NucleusTile:
    left, top = corner
    rows, columns = np.nonzero(labels)
    code = labels[rows, columns]
    # Whole numbers add up exactly, so a centroid does not depend on where the tile lies.
    sums = pd.DataFrame({"x": columns + left, "y": rows + top, "h": amount[rows, columns].astype(np.float64)})
    grouped = sums.groupby(code)
    area = grouped.size().to_numpy()
    totals = grouped.sum()
    centroids = totals[["x", "y"]].to_numpy(np.float64) / area[:, None] + 0.5
    x0, y0, x1, y1 = core
    inside = (centroids >= (x0, y0)).all(axis=1) & (centroids < (x1, y1)).all(axis=1)
    inside &= wide.on_tissue(centroids * downsample) if len(centroids) else inside
    return NucleusTile(
        left=left,
        top=top,
        labels=labels,
        owned=totals.index.to_numpy()[inside],
        centroids=centroids[inside],
        area=area[inside],
        haematoxylin=(totals["h"].to_numpy() / np.maximum(area, 1))[inside],
        downsample=downsample,
    )
