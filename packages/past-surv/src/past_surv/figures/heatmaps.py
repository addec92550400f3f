"""Attention over a slide as images: patches painted by rank over the H&E, one pyramid a group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from past_core.atomic import replacing
from past_core.ingest.pyramid import halve, level_shapes
from past_surv.figures.curves import FigureError

if TYPE_CHECKING:
    from past_core.slides import Slide

TILE = 512
BLOCK = 256
"""Side of the squares in which a slide is read, so that one without coarse levels fits into memory too."""
FINEST_UM, MOST_PIXELS, LIMIT_PIXELS = 2.0, 40_000_000, 400_000_000
"""Default resolution, the most pixels that the default makes, and the most that may be asked for."""
QUALITY = 90
ANCHORS = (
    (0.0, (49, 54, 149)), (0.25, (116, 173, 209)), (0.5, (255, 255, 191)), (0.75, (244, 109, 67)),
    (1.0, (165, 0, 38)),
)  # fmt: skip
"""Colours from the least attention to the most: blue, yellow, red."""


@dataclass(frozen=True, eq=False)
class Overview:
    """A slide's H&E at the resolution of its heatmaps.

    Attributes:
        image: `(3, H, W)` uint8.
        mpp: µm per pixel.
        downsample: level-0 pixels per pixel.
    """

    image: np.ndarray
    mpp: float
    downsample: float


def read_overview(slide: "Slide", mpp: float | None = None) -> Overview:
    """Reads a slide, block by block.

    Args:
        slide: an open slide whose resolution is known.
        mpp: µm per pixel; by default 2, doubled until the picture has no more than 40 million pixels.

    Raises:
        FigureError: more than 400 million pixels asked for.
        SlideError: no resolution, or damaged.
    """
    own = slide.require_mpp()
    if mpp is None:
        mpp = max(FINEST_UM, own)
        while slide.height * slide.width * (own / mpp) ** 2 > MOST_PIXELS:
            mpp *= 2
    view = slide.at(mpp)
    if view.height * view.width > LIMIT_PIXELS:
        raise FigureError(
            f"{slide.path}: {view.width:,} x {view.height:,} pixels at {mpp:g} µm; choose a coarser "
            "resolution"
        )
    image = np.empty((3, view.height, view.width), np.uint8)
    for y in range(0, view.height, BLOCK):
        for x in range(0, view.width, BLOCK):
            h, w = min(BLOCK, view.height - y), min(BLOCK, view.width - x)
            image[:, y : y + h, x : x + w] = view.read(y, x, h, w)
    return Overview(image, float(mpp), float(view.downsample))


class PatchPainter:
    """Squares of patches on an overview; where some overlap, their mean counts.

    Args:
        places: `(M, 2)` x, y of centres in level-0 pixels.
        side: of a square in level-0 pixels.
        overview: what is painted on.

    Raises:
        FigureError: squares outside the slide: they are of another one, or of other level-0 pixels.
    """

    def __init__(self, places: np.ndarray, side: float, overview: Overview) -> None:
        _, height, width = overview.image.shape
        self.overview, self.shape = overview, (height, width)
        centres = np.asarray(places, np.float64) / overview.downsample
        half = side / overview.downsample / 2
        # The last tiles of a grid reach over the border, so that their centres may lie beyond it.
        outside = ((centres <= -half) | (centres >= np.array([width, height]) + half)).any(axis=1)
        if outside.any():
            row = int(outside.argmax())
            raise FigureError(
                f"{outside.sum():,} of {len(places):,} patches lie outside the slide, such as number {row} "
                f"at x {places[row][0]:.0f}, y {places[row][1]:.0f}; give the bag of this slide, made from a "
                "file with the same full-size level"
            )
        # Rounded edges of tiles side by side meet; a square is never less than a pixel.
        low = np.round(centres - half).astype(int)
        high = np.maximum(np.round(centres + half).astype(int), low + 1)
        limit = np.array([width, height])
        self._low = np.minimum(np.clip(low, 0, None), limit - 1)
        self._high = np.maximum(np.minimum(high, limit), self._low + 1)
        self._count = self._summed(np.ones(len(places), np.float32))

    def _summed(self, values: np.ndarray) -> np.ndarray:
        total = np.zeros(self.shape, np.float32)
        for (x0, y0), (x1, y1), value in zip(self._low, self._high, values, strict=True):
            total[y0:y1, x0:x1] += value
        return total

    @property
    def covered(self) -> np.ndarray:
        """`(H, W)` bool, where there is a patch."""
        return self._count > 0

    def field(self, values: np.ndarray) -> np.ndarray:
        """`(H, W)` float32 mean of the values, from 0 to 1, of the patches at each pixel; 0 without any."""
        total = self._summed(np.asarray(values, np.float32))
        np.divide(total, self._count, out=total, where=self._count > 0)
        return total

    def paint(self, values: np.ndarray, *, opacity: float = 0.5) -> np.ndarray:
        """The H&E under the colours of values from 0 to 1, `(3, H, W)` uint8; as it is where no patch is."""
        field, table = self.field(values), colours()
        image = self.overview.image.copy()
        for y in range(0, self.shape[0], TILE):  # strips: a slide as floats would take four times its bytes
            rows = slice(y, y + TILE)
            colour = table[np.clip(np.rint(field[rows] * 255), 0, 255).astype(np.uint8)].transpose(2, 0, 1)
            mixed = (1 - opacity) * image[:, rows] + opacity * colour
            image[:, rows] = np.where(self.covered[rows], np.rint(mixed).astype(np.uint8), image[:, rows])
        return image


def colours() -> np.ndarray:
    """`(256, 3)` uint8, from the least attention to the most."""
    at = np.array([place for place, _ in ANCHORS], float)
    shades = np.array([shade for _, shade in ANCHORS], float)
    steps = np.linspace(0, 1, 256)
    return np.stack([np.interp(steps, at, shades[:, k]) for k in range(3)], axis=1).round().astype(np.uint8)


def write_heatmaps(
    path: Path,
    images: Sequence[tuple[str, Callable[[], np.ndarray]]],
    *,
    mpp: float,
    facts: Mapping[str, Any],
    progress: Callable[[], None] | None = None,
) -> Path:
    """Writes one OME-TIFF of several images, each with its pyramid in SubIFDs, whole or not at all.

    Args:
        path: ending in `.ome.tif` or `.ome.tiff`.
        images: name, and what makes the `(3, H, W)` uint8 image; one is held at a time.
        mpp: µm per pixel.
        facts: of how they were made, kept in the description of each.
        progress: called after each image.

    Raises:
        FigureError: another ending, or no images.
        OSError: the file cannot be written.
    """
    import json
    import uuid

    import tifffile

    if not path.name.lower().endswith((".ome.tif", ".ome.tiff")) or not images:
        raise FigureError(
            f"{path}: {len(images)} images; expected at least one, and a name ending in .ome.tif"
        )
    text = json.dumps(dict(facts), sort_keys=True)
    common: dict[str, Any] = {
        "tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg",
        "compressionargs": {"level": QUALITY}, "subsampling": (1, 1), "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    with replacing(path) as temporary, tifffile.TiffWriter(temporary, ome=True, bigtiff=True) as file:
        for name, make in images:
            image = make()
            levels = len(level_shapes(*image.shape[1:])) - 1
            metadata = {
                "axes": "YXS", "Name": name, "Description": text,
                "PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm",
                # A random one would make every run's bytes differ.
                "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, text)}",
            }  # fmt: skip
            for level in range(levels + 1):
                file.write(
                    np.ascontiguousarray(image.transpose(1, 2, 0)),
                    subifds=levels if level == 0 else None,
                    subfiletype=1 if level else 0,
                    resolution=(1e4 / (mpp * 2**level),) * 2,
                    metadata=None if level else metadata,
                    **common,
                )
                image = halve(image) if level < levels else image
            if progress is not None:
                progress()
    return path
