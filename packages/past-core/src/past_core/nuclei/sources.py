"""Nuclei of a slide from any source, tile by tile: watershed, StarDist, or imported labels."""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from past_core.nuclei.errors import NucleiError
from past_core.nuclei.imported import ImportedLabels, imported_tiles
from past_core.nuclei.slidewide import SlideWide, slide_wide
from past_core.nuclei.stardist import find_weights, stardist_segmenter
from past_core.nuclei.tiles import NucleusTile, Segmenter, WatershedSegmenter, nucleus_tiles
from past_core.nuclei.watershed import WatershedSettings
from past_core.slides import Slide

logger = logging.getLogger(__name__)

SEGMENTERS = ("watershed", "stardist", "auto")
"""Segmenters by name; `auto` is StarDist where its package and weights are present, else the watershed."""
MAX_MPP = 1.0
"""Nuclei are a few pixels wide at this resolution, in µm per pixel; coarser slides are refused."""
MAX_PIXELS = 2**29
"""Largest image of labels that is made in memory."""

Labels = str | Path | np.ndarray | ImportedLabels


@dataclass(frozen=True)
class LabelTiles:
    """Tiles of nuclei, to be iterated, and what found them.

    Attributes:
        segmenter: name, for results to carry.
        parameters: everything that it was given or found on the slide, likewise.
        mpp: µm per pixel of the tiles.
        downsample: level-0 pixels per pixel of the tiles.
        height: rows of the view that the tiles lie in.
        width: its columns.
        start: gives the tiles; called anew for each iteration.
    """

    segmenter: str
    parameters: dict[str, Any]
    mpp: float
    downsample: float
    height: int
    width: int
    start: Callable[[], Iterator[NucleusTile]]

    def __iter__(self) -> Iterator[NucleusTile]:
        return self.start()


def choose_segmenter(segmenter: str, *, model: str | Path | None = None) -> str:
    """`watershed` or `stardist`; settles `auto`, with a warning where StarDist cannot be had.

    Raises:
        NucleiError: no segmenter of that name.
        WeightsError: `auto` with a model that is named but not there, or not what it should be.
    """
    if segmenter not in SEGMENTERS:
        raise NucleiError(f"no segmenter {segmenter!r}; expected one of {', '.join(SEGMENTERS)}")
    if segmenter != "auto":
        return segmenter
    missing = [name for name in ("stardist", "tensorflow") if importlib.util.find_spec(name) is None]
    if not missing and find_weights(model) is not None:
        return "stardist"
    logger.warning(
        "nuclei are found by watershed: %s; results of the two segmenters are not to be mixed",
        f"StarDist is not installed ({' and '.join(missing)})"
        if missing
        else "StarDist has no weights (set PAST_STARDIST_MODEL)",
    )
    return "watershed"


def label_tiles(
    slide: Slide,
    *,
    segmenter: str = "auto",
    labels: Labels | None = None,
    model: str | Path | None = None,
    mpp: float = 0.5,
    tile: int | None = 1024,
    settings: WatershedSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelTiles:
    """The nuclei of a slide, tile by tile; where the tiles lie changes nothing.

    Args:
        slide: an open slide of known resolution.
        segmenter: one of `SEGMENTERS`; not asked where labels are given.
        labels: a label image `(H, W)` or its file (TIFF, PNG, .npy), QuPath's GeoJSON, or what
            `read_labels` and `read_geojson` gave. A label image is used at its own resolution.
        model: folder or zip of a StarDist model, see `past_core.nuclei.stardist.find_weights`.
        mpp: µm per pixel.
        tile: side of a tile in pixels; None takes the slide as one.
        settings: of the watershed, and of the haematoxylin that is measured.
        progress: called with tiles done and tiles in all.

    Returns:
        An iterable of `NucleusTile` that carries the segmenter's name and parameters.

    Raises:
        NucleiError: an unknown segmenter, a slide without tissue, or a resolution too coarse for nuclei.
        StarDistError, WeightsError: StarDist was asked for and is not installed or has no weights.
        LabelError, GeoJsonError: imported labels that are damaged or not of this slide.
        SlideError: the slide's resolution is unknown.
    """
    settings = settings or WatershedSettings()
    if tile is not None and tile < 1:
        raise NucleiError(f"a tile of {tile} pixels; expected at least 1, or None for the whole slide")
    if labels is not None:
        slide.require_mpp()
        return _imported(slide, labels, mpp, tile, settings, progress)
    name = choose_segmenter(segmenter, model=model)
    wide = _look(slide, mpp, settings)
    view = slide.at(mpp)
    made: Segmenter = (
        stardist_segmenter(slide, wide, mpp=mpp, model=model)
        if name == "stardist"
        else WatershedSegmenter(wide, view.require_mpp(), settings)
    )
    own = {"otsu": float(wide.threshold), **asdict(settings)} if name == "watershed" else made.parameters

    def start() -> Iterator[NucleusTile]:
        return nucleus_tiles(
            slide, wide, mpp=mpp, tile=tile, settings=settings, segmenter=made, progress=progress
        )

    return LabelTiles(
        segmenter=made.name,
        parameters={"mpp": float(view.require_mpp()), "white": list(wide.white), **own},
        mpp=float(view.require_mpp()),
        downsample=view.downsample,
        height=view.height,
        width=view.width,
        start=start,
    )


def label_image(slide: Slide, **options: Any) -> np.ndarray:
    """All nuclei of a small slide in one image.

    Args:
        slide: an open slide of known resolution.
        options: of `label_tiles`.

    Returns:
        `(H, W)` int32 at the tiles' resolution: 0 background, nuclei numbered 1, 2, … by row, then column, of
        their centroids.

    Raises:
        NucleiError: the image would be too large for memory; else see `label_tiles`.
    """
    tiles = label_tiles(slide, **options)
    if tiles.height * tiles.width > MAX_PIXELS:
        raise NucleiError(
            f"{slide.path}: labels of {tiles.width} x {tiles.height} pixels are more than the {MAX_PIXELS} "
            "that are made at once; take them tile by tile with label_tiles"
        )
    image = np.zeros((tiles.height, tiles.width), np.int32)
    centroids = [np.zeros((0, 2))]
    count = 0
    for tile in tiles:
        number = np.arange(count + 1, count + 1 + len(tile.owned), dtype=np.int32)
        count += len(tile.owned)
        window = image[
            tile.top : tile.top + tile.labels.shape[0], tile.left : tile.left + tile.labels.shape[1]
        ]
        order = np.argsort(tile.owned)
        names = tile.owned[order]
        place = np.minimum(np.searchsorted(names, tile.labels), len(names) - 1)
        mine = names[place] == tile.labels
        np.copyto(window, number[order][place], where=mine)
        centroids.append(tile.centroids)
    points = np.concatenate(centroids)
    rank = np.zeros(count + 1, np.int32)
    rank[1 + np.lexsort((points[:, 0], points[:, 1]))] = np.arange(1, count + 1)
    return rank[image]


def _imported(
    slide: Slide,
    labels: Labels,
    mpp: float,
    tile: int | None,
    settings: WatershedSettings,
    progress: Callable[[int, int], None] | None,
) -> LabelTiles:
    from past_core.nuclei.geojson import is_geojson, read_geojson
    from past_core.nuclei.labels import image_labels, read_labels

    if isinstance(labels, np.ndarray):
        labels = image_labels(labels, shape=(slide.height, slide.width))
    elif isinstance(labels, str | Path):
        path = Path(labels)
        labels = (
            read_geojson(path, slide, mpp=mpp)
            if is_geojson(path)
            else read_labels(path, shape=(slide.height, slide.width))
        )
    source = labels

    def start() -> Iterator[NucleusTile]:
        return imported_tiles(slide, source, tile=tile, settings=settings, progress=progress)

    scale = source.downsample
    return LabelTiles(
        segmenter="labels",
        parameters={"mpp": slide.require_mpp() * scale, **source.parameters},
        mpp=slide.require_mpp() * scale,
        downsample=scale,
        height=source.height,
        width=source.width,
        start=start,
    )


def _look(slide: Slide, mpp: float, settings: WatershedSettings) -> SlideWide:
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
