"""Nuclei of a slide, as found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import shapely


@dataclass(frozen=True, eq=False, kw_only=True)
class Nuclei:
    """N nuclei in reading order: by the y of their centroids, then x.

    Attributes:
        centroids: `(N, 2)` float64 x, y in level-0 pixels.
        areas: `(N,)` float64 in µm².
        haematoxylin: `(N,)` float64 mean optical density of haematoxylin.
        vertices: `(P, 2)` float32 x, y of all outlines' vertices in level-0 pixels, or None.
        offsets: `(N + 1,)` int64: outline i is `vertices[offsets[i]:offsets[i + 1]]`, closed; or None.
        mpp: µm per level-0 pixel.
        segmenter: the segmenter's name.
        parameters: all that determined its work, with what it learnt of the slide.
    """

    centroids: np.ndarray
    areas: np.ndarray
    haematoxylin: np.ndarray
    mpp: float
    segmenter: str
    parameters: Mapping[str, Any]
    vertices: np.ndarray | None = None
    offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.areas)

    def outline(self, number: int) -> np.ndarray:
        """`(p, 2)` vertices of one nucleus, closed.

        Raises:
            ValueError: outlines were not asked for.
        """
        if self.vertices is None:
            raise ValueError("these nuclei have no outlines; segment with outlines=True")
        return self.vertices[self.offsets[number] : self.offsets[number + 1]]

    def polygons(self) -> "list[shapely.Polygon]":
        """Outlines as shapely's polygons, made valid.

        Raises:
            ValueError: outlines were not asked for.
        """
        import shapely

        return [shapely.Polygon(self.outline(number)) for number in range(len(self))]
