"""Regions of a slide, from a GeoJSON of polygons in level-0 pixels, as QuPath exports annotations."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from past_core.errors import PastError


class RegionError(PastError, ValueError):
    """A GeoJSON that holds no polygons, or is none."""


class RegionNotFoundError(PastError, FileNotFoundError):
    """There is no GeoJSON at that path."""


class Region(NamedTuple):
    """A named area.

    Attributes:
        name: of the annotation, its class, or `region N`.
        rings: closed rings `(k, 2)` x, y; a point inside an odd number of them is in the region.
    """

    name: str
    rings: list[np.ndarray]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """`(N,)` bool for `(N, 2)` x, y in level-0 pixels."""
        from matplotlib.path import Path as Ring

        inside = np.zeros(len(points), bool)
        for ring in self.rings:
            inside ^= Ring(ring).contains_points(points)
        return inside


def read_regions(path: Path) -> list[Region]:
    """Reads polygons and multipolygons; names that occur twice get a number.

    Raises:
        RegionNotFoundError: no such file.
        RegionError: no GeoJSON, another geometry, or no polygon.
    """
    if not path.is_file():
        raise RegionNotFoundError(f"no regions at {path}; expected a GeoJSON of polygons")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RegionError(f"{path}: not a GeoJSON ({error})") from error
    features = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(features, list) or not features:
        raise RegionError(f"{path}: holds no features; expected a GeoJSON of polygons")
    regions: list[Region] = []
    seen: dict[str, int] = {}
    for number, feature in enumerate(features, 1):
        rings = _rings(path, number, feature)
        name = _name(feature) or f"region {number}"
        seen[name] = seen.get(name, 0) + 1
        regions.append(Region(name if seen[name] == 1 else f"{name} ({seen[name]})", rings))
    return regions


def _name(feature: dict) -> str | None:
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    classification = properties.get("classification")
    found = properties.get("name") or (
        classification.get("name") if isinstance(classification, dict) else None
    )
    return str(found) if found else None


def _rings(path: Path, number: int, feature: object) -> list[np.ndarray]:
    geometry = feature.get("geometry", feature) if isinstance(feature, dict) else None
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if not isinstance(geometry, dict) or kind not in {"Polygon", "MultiPolygon"}:
        raise RegionError(f"{path}: feature {number} is a {kind}; expected Polygon or MultiPolygon")
    coordinates: Any = geometry.get("coordinates")
    try:
        polygons = [coordinates] if kind == "Polygon" else coordinates
        rings = [np.array(ring, np.float64)[:, :2] for polygon in polygons for ring in polygon]
    except (TypeError, ValueError, IndexError) as error:
        raise RegionError(f"{path}: feature {number} has damaged coordinates ({error})") from error
    if not rings or any(len(ring) < 4 or not np.isfinite(ring).all() for ring in rings):
        raise RegionError(f"{path}: feature {number} has a ring of fewer than four points, or no numbers")
    return rings
