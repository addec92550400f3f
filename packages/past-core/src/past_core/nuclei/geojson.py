"""Nuclei from QuPath's GeoJSON: polygons in level-0 pixels, drawn where they are needed."""

import gzip
import json
import math
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from past_core.errors import PastError
from past_core.slides import Slide

MAX_BYTES = 2**31
"""Largest file, unpacked, that is read."""
MAX_SIDE_UM = 400.0
"""A polygon wider than this is a region, not a nucleus."""
OBJECTS = ("cell", "detection")
"""QuPath's types of object that are nuclei; where a file has none of them, every polygon is taken."""
ENDINGS = (".geojson", ".json", ".geojson.gz", ".json.gz")


class GeoJsonError(PastError, ValueError):
    """A file of polygons that is none, or not one of this slide."""


class GeoJsonNotFoundError(PastError, FileNotFoundError):
    """There is no file of polygons at that path."""


class PolygonLabels:
    """Polygons as labels; see `past_core.nuclei.imported.ImportedLabels`.

    A pixel is in a polygon when its centre is, and in the first of several.

    Args:
        polygons: for each nucleus its polygons, each a list of rings `(k, 2)` x, y in pixels of the
            labels: the outer one, then holes.
        size: height and width of the whole label image.
        downsample: level-0 pixels per pixel of the labels.
        parameters: where they come from.
    """

    def __init__(
        self,
        polygons: list[list[list[np.ndarray]]],
        size: tuple[int, int],
        downsample: float,
        parameters: dict[str, Any],
    ) -> None:
        self._polygons, self.downsample, self.parameters = polygons, downsample, parameters
        self.height, self.width = size
        self.names = np.arange(1, len(polygons) + 1, dtype=np.int32)
        outer = [np.concatenate([part[0] for part in parts]) for parts in polygons]
        low = np.array([points.min(axis=0) for points in outer]).reshape(-1, 2)
        high = np.array([points.max(axis=0) for points in outer]).reshape(-1, 2)
        limit = np.array([self.width, self.height])
        self.centres = np.clip((low + high) / 2, 0, limit - 0.5)
        first = np.clip(np.floor(low), 0, limit - 1).astype(np.int64)
        last = np.maximum(np.clip(np.ceil(high), 0, limit).astype(np.int64), first + 1)
        self.boxes = np.column_stack([first[:, ::-1], last[:, ::-1]])

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A window of the labels, `(height, width)` int32."""
        from skimage.draw import polygon

        out = np.zeros((height, width), np.int32)
        y0, x0, y1, x1 = self.boxes.T
        near = (y1 > top) & (y0 < top + height) & (x1 > left) & (x0 < left + width)
        for index in np.flatnonzero(near):
            # All of it is drawn, then cut: what a window shows must not depend on the window.
            row, column = y0[index], x0[index]
            mask = np.zeros((y1[index] - row, x1[index] - column), bool)
            for outer, *holes in self._polygons[index]:
                part = np.zeros_like(mask)
                for number, ring in enumerate((outer, *holes)):
                    inside = polygon(ring[:, 1] - row - 0.5, ring[:, 0] - column - 0.5, mask.shape)
                    part[inside] = number == 0
                mask |= part
            a, b = max(row, top), min(y1[index], top + height)
            c, d = max(column, left), min(x1[index], left + width)
            target = out[a - top : b - top, c - left : d - left]
            cut = mask[a - row : b - row, c - column : d - column]
            target[cut & (target == 0)] = self.names[index]
        return out


def is_geojson(path: Path) -> bool:
    """Whether a file's name says that it holds GeoJSON."""
    return path.name.lower().endswith(ENDINGS)


def read_geojson(path: str | Path, slide: Slide, *, mpp: float = 0.5) -> PolygonLabels:
    """Reads nuclei as QuPath exports them: a FeatureCollection, a list of features or one, also gzipped.

    Of a cell its `nucleusGeometry` is taken where it has one. Where a file holds cells or detections,
    annotations and other objects are left out.

    Args:
        path: the file; polygons are in level-0 pixels.
        slide: the slide that they lie on.
        mpp: µm per pixel at which they are drawn.

    Raises:
        GeoJsonNotFoundError: no such file.
        GeoJsonError: not GeoJSON, no polygon, a damaged one (named by its number), one that lies outside the
            slide or is far too large for a nucleus.
        SlideError: the slide's resolution is unknown.
    """
    path = Path(path)
    if not path.is_file():
        raise GeoJsonNotFoundError(f"no polygons at {path}; expected QuPath's GeoJSON")
    features = _features(path, _load(path))
    view = slide.at(mpp)
    polygons = []
    for number, feature in features:
        geometry = feature.get("nucleusGeometry") or feature.get("geometry")
        parts = _polygons(f"{path}: feature {number}", geometry)
        outer = np.concatenate([part[0] for part in parts])
        low, high = outer.min(axis=0), outer.max(axis=0)
        if (high <= 0).any() or low[0] >= slide.width or low[1] >= slide.height:
            raise GeoJsonError(
                f"{path}: feature {number} lies at x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}, "
                f"outside the slide of {slide.width} x {slide.height} pixels; expected level-0 pixels of it"
            )
        side = (high - low).max() * slide.require_mpp()
        if side > MAX_SIDE_UM:
            raise GeoJsonError(
                f"{path}: feature {number} is {side:.4g} µm wide; expected "
                f"nuclei, at most {MAX_SIDE_UM:g}: export detections or cells, not regions"
            )
        polygons.append([[ring / view.downsample for ring in part] for part in parts])
    if not polygons:
        raise GeoJsonError(f"{path}: no polygons; expected nuclei as QuPath exports them")
    parameters = {"file": path.name, "polygons": len(polygons)}
    return PolygonLabels(polygons, (view.height, view.width), view.downsample, parameters)


def _load(path: Path) -> Any:
    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number")

    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as content:
            pieces, size = [], 0  # by and by: one read of so many bytes would first take so much memory
            while size <= MAX_BYTES and (piece := content.read(2**20)):
                pieces.append(piece)
                size += len(piece)
        text = b"".join(pieces)
        if size > MAX_BYTES:
            raise GeoJsonError(f"{path}: more than {MAX_BYTES} bytes unpacked; split the export")
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, GeoJsonError):
            raise
        raise GeoJsonError(f"{path}: not GeoJSON ({error})") from error


def _features(path: Path, content: Any) -> list[tuple[int, dict[str, Any]]]:
    """Features that are nuclei, with their numbers from 1."""
    if isinstance(content, dict):
        content = content.get("features", [content] if content.get("type") == "Feature" else None)
    if not isinstance(content, list):
        raise GeoJsonError(f"{path}: expected a FeatureCollection or a list of features")
    numbered = list(enumerate(content, start=1))
    for number, feature in numbered:
        if not isinstance(feature, dict):
            raise GeoJsonError(f"{path}: feature {number} is {type(feature).__name__}; expected an object")
    some = [(number, feature) for number, feature in numbered if _kind(feature) in OBJECTS]
    return some or numbered


def _kind(feature: dict[str, Any]) -> str | None:
    properties = feature.get("properties")
    kind = properties.get("objectType") if isinstance(properties, dict) else None
    return kind if isinstance(kind, str) else None


def _polygons(where: str, geometry: Any) -> list[list[np.ndarray]]:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in {"Polygon", "MultiPolygon"}:
        raise GeoJsonError(f"{where} is a {kind}; expected a Polygon or MultiPolygon")
    coordinates = geometry.get("coordinates")
    parts = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(parts, list) or not parts:
        raise GeoJsonError(f"{where} has no coordinates")
    polygons = []
    for part in parts:
        if not isinstance(part, list) or not part:
            raise GeoJsonError(f"{where} has a polygon without rings")
        polygons.append([_ring(where, ring) for ring in part])
    return polygons


def _ring(where: str, ring: Any) -> np.ndarray:
    if not isinstance(ring, list) or len(ring) < 4:
        raise GeoJsonError(f"{where} has a ring of fewer than four points, the last being the first again")
    for point in ring:
        if not (
            isinstance(point, list)
            and len(point) >= 2
            and all(type(value) in (int, float) and abs(value) < 1e9 for value in point[:2])
            and all(math.isfinite(value) for value in point[:2])
        ):
            raise GeoJsonError(f"{where} has the point {str(point)[:60]}; expected [x, y] in level-0 pixels")
    return np.array([point[:2] for point in ring], np.float64)
