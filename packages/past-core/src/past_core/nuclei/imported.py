"""Nuclei that were found elsewhere, in the same tiles as those that are found here."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from past_core.nuclei.tiles import NucleusTile
from past_core.nuclei.watershed import TRUNCATE, WatershedSettings, haematoxylin
from past_core.slides import Slide


class ImportedLabels(Protocol):
    """Nuclei of a slide by their labels.

    Attributes:
        parameters: where they come from, for results to carry.
        downsample: level-0 pixels per pixel of the labels.
        height: rows of the whole label image.
        width: its columns.
        names: `(N,)` labels.
        boxes: `(N, 4)` top, left, bottom, right (exclusive) of each nucleus.
        centres: `(N, 2)` x, y by which tiles own them.
    """

    parameters: dict[str, Any]
    downsample: float
    height: int
    width: int
    names: np.ndarray
    boxes: np.ndarray
    centres: np.ndarray

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """`(height, width)` int32: the labels of a window that lies inside the image."""
        ...


def imported_tiles(
    slide: Slide,
    source: ImportedLabels,
    *,
    tile: int | None = 1024,
    settings: WatershedSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[NucleusTile]:
    """Imported nuclei, tile by tile; each is in the tile that its centre lies in, whole.

    Args:
        slide: the open slide that the labels belong to.
        source: the labels.
        tile: side of a tile in pixels of the labels; None takes the slide as one.
        settings: of the haematoxylin that is measured.
        progress: called with tiles done and tiles in all.

    Yields:
        Tiles that own at least one nucleus.
    """
    settings = settings or WatershedSettings()
    side = max(source.height, source.width) if tile is None else tile
    view = slide.at(None if source.downsample == 1 else slide.require_mpp() * source.downsample)
    mpp = slide.require_mpp() * source.downsample
    sigma = settings.smooth_um / mpp
    rim = int(np.ceil(TRUNCATE * sigma)) + 1
    cells = np.floor(source.centres / side).astype(np.int64)
    key = cells[:, 1] * (source.width // side + 2) + cells[:, 0]
    order = np.argsort(key, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(key[order])) + 1) if len(order) else []
    for done, mine in enumerate(groups):
        if progress is not None:
            progress(done, len(groups))
        top, left = source.boxes[mine, :2].min(axis=0)
        bottom, right = source.boxes[mine, 2:].max(axis=0)
        y0, x0 = max(0, top - rim), max(0, left - rim)
        y1, x1 = min(source.height, bottom + rim), min(source.width, right + rim)
        amount = haematoxylin(
            view.read(y0, x0, y1 - y0, x1 - x0), white=(255.0,) * 3, stains=settings.stains, sigma=sigma
        )[top - y0 : bottom - y0, left - x0 : right - x0]
        labels = source.window(top, left, bottom - top, right - left)
        made = _measure(labels, amount, source.names[mine], (int(left), int(top)), source.downsample)
        if len(made.owned):
            yield made
    if progress is not None:
        progress(len(groups), len(groups))


def _measure(
    labels: np.ndarray, amount: np.ndarray, names: np.ndarray, corner: tuple[int, int], downsample: float
) -> NucleusTile:
    names = np.sort(names)
    rows, columns = np.nonzero(labels)
    place = np.minimum(np.searchsorted(names, labels[rows, columns]), len(names) - 1)
    mine = names[place] == labels[rows, columns]
    rows, columns, place = rows[mine], columns[mine], place[mine]
    area = np.bincount(place, minlength=len(names))
    sums = [
        np.bincount(place, weights, len(names))
        for weights in (columns + corner[0], rows + corner[1], amount[rows, columns].astype(np.float64))
    ]
    some = area > 0  # a polygon may cover no pixel's centre, or lie under another
    x, y, dark = (total[some] / area[some] for total in sums)
    return NucleusTile(
        left=corner[0],
        top=corner[1],
        labels=labels,
        owned=names[some],
        centroids=np.column_stack([x, y]) + 0.5,
        area=area[some],
        haematoxylin=dark,
        downsample=downsample,
    )


def boxes_of(labels: np.ndarray) -> np.ndarray:
    """`(N, 4)` top, left, bottom, right of labels 1 to N, all of which occur."""
    found = ndimage.find_objects(labels)
    return np.array(
        [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in found], np.int64
    ).reshape(-1, 4)
