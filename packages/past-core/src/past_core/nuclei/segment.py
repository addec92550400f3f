"""Segments the nuclei of a whole slide tile by tile; where the tiles lie changes nothing."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.nuclei.slidewide import SlideWide, slide_wide
from past_core.nuclei.watershed import WatershedSettings, haematoxylin, watershed_labels
from past_core.slides import Slide

SEGMENTERS = ("watershed",)
"""Segmenters by name."""
MAX_MPP = 1.0
"""Nuclei are a few pixels wide at this resolution, in µm per pixel; coarser slides are refused."""


class NucleiError(PastError, ValueError):
    """A slide on which nuclei cannot be found, or an unknown segmenter."""


@dataclass(frozen=True)
class Nuclei:
    """The nuclei of a slide, in reading order (by row, then column, of their centroids).

    Attributes:
        centroids: `(N, 2)` x, y in level-0 pixels.
        areas: `(N,)` µm².
        haematoxylin: `(N,)` mean optical density of haematoxylin.
        outlines: N arrays `(k, 2)` x, y in level-0 pixels, open rings; None where they were not asked for.
        segmenter: name of the segmenter.
        parameters: everything that it was given or found on the slide, for results to carry.
    """

    centroids: np.ndarray
    areas: np.ndarray
    haematoxylin: np.ndarray
    outlines: list[np.ndarray] | None
    segmenter: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.centroids)

    def polygons(self) -> np.ndarray:
        """`(N,)` shapely polygons in level-0 pixels.

        Raises:
            NucleiError: outlines were not asked for.
            ModuleNotFoundError: shapely is not installed (extra `ingest`).
        """
        import shapely

        if self.outlines is None:
            raise NucleiError("these nuclei have no outlines; segment with outlines=True")
        rings = np.concatenate(self.outlines) if self.outlines else np.zeros((0, 2))
        owner = np.repeat(np.arange(len(self)), [len(ring) for ring in self.outlines])
        return shapely.polygons(shapely.linearrings(rings, indices=owner)) if len(self) else np.array([])


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


def segment_nuclei(
    slide: Slide,
    *,
    segmenter: str = "watershed",
    mpp: float = 0.5,
    tile: int = 1024,
    outlines: bool = True,
    settings: WatershedSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Nuclei:
    """Finds the nuclei of an H&E slide.

    Memory is that of a tile with its surroundings, whatever the slide's size.

    Args:
        slide: an open slide of known resolution.
        segmenter: one of `SEGMENTERS`.
        mpp: µm per pixel at which is segmented.
        tile: side of a tile in pixels at that resolution.
        outlines: whether outlines are wanted.
        settings: of the watershed.
        progress: called with tiles done and tiles in all.

    Returns:
        All nuclei on tissue.

    Raises:
        NucleiError: an unknown segmenter, a slide without tissue, or a resolution too coarse for nuclei.
        SlideError: the slide's resolution is unknown, or its data is damaged.
    """
    settings = settings or WatershedSettings()
    wide = _look(slide, segmenter, mpp, settings)
    tables, rings = [], []
    for made in nucleus_tiles(slide, wide, mpp=mpp, tile=tile, settings=settings, progress=progress):
        tables.append(np.column_stack([made.centroids * made.downsample, made.area, made.haematoxylin]))
        if outlines:
            rings += _outlines(made)
    table = np.concatenate(tables) if tables else np.zeros((0, 4))
    order = np.lexsort((table[:, 0], table[:, 1]))
    table = table[order]
    view = slide.at(mpp)
    return Nuclei(
        centroids=table[:, :2],
        areas=table[:, 2] * view.mpp**2,
        haematoxylin=table[:, 3],
        outlines=[rings[i] for i in order] if outlines else None,
        segmenter=segmenter,
        parameters={
            "mpp": float(view.mpp),
            "white": list(wide.white),
            "otsu": float(wide.threshold),
            **asdict(settings),
        },
    )


def nucleus_tiles(
    slide: Slide,
    wide: SlideWide,
    *,
    mpp: float = 0.5,
    tile: int = 1024,
    settings: WatershedSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[NucleusTile]:
    """The nuclei of each tile with tissue.

    A nucleus belongs to the tile that its centroid lies in; tiles are read with so much around them that each
    is seen as it is on the whole slide.

    Args:
        slide: an open slide.
        wide: what was decided for the whole slide, see `slide_wide`.
        mpp: µm per pixel.
        tile: side of a tile in pixels.
        settings: of the watershed.
        progress: called with tiles done and tiles in all.

    Yields:
        Tiles that own at least one nucleus.
    """
    settings = settings or WatershedSettings()
    view = slide.at(mpp)
    halo = int(np.ceil(settings.halo_um / view.mpp))
    corners = [(y, x) for y in range(0, view.height, tile) for x in range(0, view.width, tile)]
    ratio = wide.downsample / view.downsample
    for done, (y, x) in enumerate(corners):
        if progress is not None:
            progress(done, len(corners))
        bottom, right = min(y + tile, view.height), min(x + tile, view.width)
        if not _any_tissue(wide, (x / ratio, y / ratio, right / ratio, bottom / ratio)):
            continue
        # The slide ends where it ends, also for a tile at its border: white around it would change means.
        top, left = max(0, y - halo), max(0, x - halo)
        height, width = min(bottom + halo, view.height) - top, min(right + halo, view.width) - left
        amount = haematoxylin(
            view.read(top, left, height, width),
            white=wide.white,
            stains=settings.stains,
            sigma=settings.smooth_um / view.mpp,
        )
        labels = watershed_labels(
            amount, mpp=view.mpp, threshold=wide.threshold, settings=settings, corner=(left, top)
        )
        made = _owned(labels, amount, (left, top), (x, y, right, bottom), view.downsample, wide)
        if len(made.owned):
            yield made
    if progress is not None:
        progress(len(corners), len(corners))


def _look(slide: Slide, segmenter: str, mpp: float, settings: WatershedSettings) -> SlideWide:
    if segmenter not in SEGMENTERS:
        raise NucleiError(f"no segmenter {segmenter!r}; expected one of {', '.join(SEGMENTERS)}")
    own = slide.require_mpp()
    if own > MAX_MPP or mpp > MAX_MPP:
        raise NucleiError(
            f"{slide.path}: {max(own, mpp):.3g} µm per pixel is too coarse to see nuclei, which needs at "
            f"most {MAX_MPP:g}; use a scan of 20x or more, or give the cells' places"
        )
    wide = slide_wide(slide, mpp=mpp, settings=settings)
    if wide is None:
        raise NucleiError(
            f"{slide.path}: no tissue was found on the slide, so there are no nuclei to look for"
        )
    return wide


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


def _outlines(tile: NucleusTile) -> list[np.ndarray]:
    """The border of each owned nucleus, half-way between its pixels and others, as an open ring."""
    from scipy import ndimage
    from skimage.measure import find_contours

    boxes = ndimage.find_objects(tile.labels)
    rings = []
    for label in tile.owned:
        rows, columns = boxes[label - 1]
        mask = np.pad(tile.labels[rows, columns] == label, 1)
        ring = max(find_contours(mask.astype(np.float32), 0.5), key=len)[:-1]
        # find_contours counts from pixel centres; the padding shifted by one.
        x = ring[:, 1] - 0.5 + columns.start + tile.left
        y = ring[:, 0] - 0.5 + rows.start + tile.top
        rings.append(np.column_stack([x, y]) * tile.downsample)
    return rings
