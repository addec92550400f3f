"""Segments the nuclei of a whole slide tile by tile; where the tiles lie changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from past_core.nuclei.errors import NucleiError
from past_core.nuclei.sources import MAX_MPP, SEGMENTERS, Labels, label_tiles
from past_core.nuclei.tiles import NucleusTile, nucleus_tiles
from past_core.nuclei.watershed import WatershedSettings
from past_core.slides import Slide

__all__ = [
    "MAX_MPP",
    "SEGMENTERS",
    "Nuclei",
    "NucleiError",
    "NucleusTile",
    "nucleus_tiles",
    "segment_nuclei",
]


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


def segment_nuclei(
    slide: Slide,
    *,
    segmenter: str = "watershed",
    labels: Labels | None = None,
    model: str | Path | None = None,
    mpp: float = 0.5,
    tile: int | None = 1024,
    outlines: bool = True,
    settings: WatershedSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Nuclei:
    """Finds the nuclei of an H&E slide.

    Memory is that of a tile with its surroundings, whatever the slide's size.

    Args:
        slide: an open slide of known resolution.
        segmenter: one of `SEGMENTERS`.
        labels: imported labels instead, see `label_tiles`.
        model: folder or zip of a StarDist model, see `past_core.nuclei.stardist.find_weights`.
        mpp: µm per pixel at which is segmented.
        tile: side of a tile in pixels at that resolution; None takes the slide as one.
        outlines: whether outlines are wanted.
        settings: of the watershed.
        progress: called with tiles done and tiles in all.

    Returns:
        All nuclei on tissue; all of them where they are imported.

    Raises:
        NucleiError: an unknown segmenter, a slide without tissue, or a resolution too coarse for nuclei.
        StarDistError, WeightsError: StarDist was asked for and is not installed or has no weights.
        LabelError, GeoJsonError: imported labels that are damaged or not of this slide.
        SlideError: the slide's resolution is unknown, or its data is damaged.
    """
    tiles = label_tiles(
        slide,
        segmenter=segmenter,
        labels=labels,
        model=model,
        mpp=mpp,
        tile=tile,
        settings=settings,
        progress=progress,
    )
    tables, rings = [], []
    for made in tiles:
        tables.append(np.column_stack([made.centroids * made.downsample, made.area, made.haematoxylin]))
        if outlines:
            rings += _outlines(made)
    table = np.concatenate(tables) if tables else np.zeros((0, 4))
    order = np.lexsort((table[:, 0], table[:, 1]))
    table = table[order]
    return Nuclei(
        centroids=table[:, :2],
        areas=table[:, 2] * tiles.mpp**2,
        haematoxylin=table[:, 3],
        outlines=[rings[i] for i in order] if outlines else None,
        segmenter=tiles.segmenter,
        parameters=tiles.parameters,
    )


def _outlines(tile: NucleusTile) -> list[np.ndarray]:
    """The border of each owned nucleus, half-way between its pixels and others, as an open ring."""
    from scipy import ndimage
    from skimage.measure import find_contours

    names, compact = np.unique(tile.labels, return_inverse=True)
    # Imported labels may be any numbers: boxes are found for their ranks.
    boxes = ndimage.find_objects(compact.reshape(tile.labels.shape) + int(names[0] != 0))
    rings = []
    for label in tile.owned:
        rows, columns = boxes[np.searchsorted(names, label) - int(names[0] == 0)]
        mask = np.pad(tile.labels[rows, columns] == label, 1)
        ring = max(find_contours(mask.astype(np.float32), 0.5), key=len)[:-1]
        # find_contours counts from pixel centres; the padding shifted by one.
        x = ring[:, 1] - 0.5 + columns.start + tile.left
        y = ring[:, 0] - 0.5 + rows.start + tile.top
        rings.append(np.column_stack([x, y]) * tile.downsample)
    return rings
