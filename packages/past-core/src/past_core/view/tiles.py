"""Deep Zoom tiles of a slide's image: any level, rendered when asked for."""

import io
from dataclasses import dataclass

import numpy as np

from past_core.errors import PastError
from past_core.slides import Slide, View

TILE = 512
"""Side of a tile in pixels."""
QUALITY = 85
"""Of the JPEG tiles."""
STRIP_PIXELS = 2**25
"""Source pixels that are averaged at once where a slide lacks the levels for an overview."""


class TileError(PastError, LookupError):
    """There is no such level or tile."""


@dataclass(frozen=True)
class Grid:
    """How an image is cut: level `top` is the image itself, each level below has half its size, rounded up.

    Attributes:
        width: of the image in level-0 pixels.
        height: likewise.
    """

    width: int
    height: int

    @property
    def top(self) -> int:
        """The finest level; level 0 is one pixel."""
        return max(self.width - 1, self.height - 1, 0).bit_length()

    def downsample(self, level: int) -> int:
        """Level-0 pixels per pixel of a level.

        Raises:
            TileError: no such level.
        """
        if not 0 <= level <= self.top:
            raise TileError(f"no level {level}; this slide has levels 0 to {self.top}")
        return 2 ** (self.top - level)

    def size(self, level: int) -> tuple[int, int]:
        """Width and height of a level in its own pixels."""
        factor = self.downsample(level)
        return -(-self.width // factor), -(-self.height // factor)

    def box(self, level: int, x: int, y: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of a tile in the level's pixels.

        Raises:
            TileError: no such level or tile.
        """
        width, height = self.size(level)
        columns, rows = -(-width // TILE), -(-height // TILE)
        if not (0 <= x < columns and 0 <= y < rows):
            raise TileError(f"no tile {x}_{y} in level {level}; it has {columns} x {rows} tiles")
        left, top = x * TILE, y * TILE
        return left, top, min(TILE, width - left), min(TILE, height - top)


def read_tile(slide: Slide, grid: Grid, level: int, x: int, y: int) -> np.ndarray:
    """The pixels of a tile, `(3, h, w)` uint8.

    They come from the slide's coarsest level that is fine enough, averaged where it is finer.

    Raises:
        TileError: no such level or tile.
        SlideError: the slide's data are damaged; of a slide store, `StoreError`.
    """
    left, top, width, height = grid.box(level, x, y)
    factor = grid.downsample(level)
    source = max(
        (k for k, entry in enumerate(slide.levels) if entry.downsample <= factor * (1 + 1e-3)),
        key=lambda k: slide.levels[k].downsample,
    )
    scale = factor / slide.levels[source].downsample
    view = View(slide, source, 1.0 if abs(scale - 1) < 1e-3 else scale, None)
    rows = max(1, int(STRIP_PIXELS / (width * scale) / scale))
    strips = [view.read(y, left, min(rows, top + height - y), width) for y in range(top, top + height, rows)]
    return np.concatenate(strips, axis=1)


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """`(3, h, w)` uint8 as a JPEG without subsampled colour, which would smear the nuclei's edges."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
