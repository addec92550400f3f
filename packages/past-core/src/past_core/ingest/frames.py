"""SpatialData's coordinate systems: from an element's own coordinates to the pixels of an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from spatialdata.transformations import get_transformation
from xarray import DataArray, DataTree

from past_core.errors import PastError


class FrameError(PastError, ValueError):
    """Elements of a SpatialData store share no coordinate system, or an image is not an RGB image."""


def level_zero(image: DataArray | DataTree) -> DataArray:
    """The full-resolution image of a single-scale or multiscale element."""
    if isinstance(image, DataTree):
        return next(iter(image["scale0"].ds.values()))
    return image


def is_rgb(image: DataArray) -> bool:
    """Whether an image could be an H&E: 8 bits, 3 or 4 channels, two dimensions."""
    return set(image.dims) == {"c", "y", "x"} and image.sizes["c"] in (3, 4) and image.dtype == np.uint8


def rgb(image: DataArray, name: str) -> Any:
    """The (3, H, W) uint8 dask array of an RGB or RGBA image.

    Raises:
        FrameError: If it is neither.
    """
    if not is_rgb(image):
        sizes = dict(zip(image.dims, image.shape, strict=True))
        raise FrameError(
            f"{name} is {image.dtype} with {sizes}; expected an 8-bit RGB image with axes c, y, x"
        )
    return image.transpose("c", "y", "x").data[:3]


def common_system(store: Path, image: DataArray, shapes: Any, wanted: str | None) -> str:
    """A coordinate system that image and shapes both have a transformation to.

    Raises:
        FrameError: If there is none, or several and neither a wanted one nor `global` is among them.
    """
    of_image = set(get_transformation(image, get_all=True))
    of_shapes = set(get_transformation(shapes, get_all=True))
    shared = sorted(of_image & of_shapes)
    if wanted is not None and wanted in shared:
        return wanted
    if wanted is None and "global" in shared:
        return "global"
    if wanted is None and len(shared) == 1:
        return shared[0]
    raise FrameError(
        f"{store}: the image is in coordinate systems {sorted(of_image)}, the shapes in {sorted(of_shapes)}; "
        "align them, or choose one that they share with --coordinate-system"
    )


def affine(element: Any, system: str) -> np.ndarray:
    """(3, 3) matrix from an element's own x, y to a coordinate system.

    Raises:
        FrameError: If the transformation is not affine or cannot be inverted.
    """
    try:
        matrix = get_transformation(element, to_coordinate_system=system).to_affine_matrix(
            ("x", "y"), ("x", "y")
        )
    except (ValueError, NotImplementedError) as error:
        raise FrameError(f"the transformation to {system!r} is not affine ({error})") from error
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < np.finfo(np.float64).tiny:
        raise FrameError(f"the transformation to {system!r} cannot be inverted: {matrix.tolist()}")
    return np.asarray(matrix, dtype=np.float64)


def matrix_between(shapes: Any, image: DataArray, system: str) -> np.ndarray:
    """(3, 3) matrix from the shapes' own coordinates to pixels of the image, through a common system."""
    return np.linalg.inv(affine(image, system)) @ affine(shapes, system)


def stated_mpp(image: DataArray, systems: Sequence[str]) -> float | None:
    """Pixel size in um from an image's transformation to a coordinate system in um; None without one."""
    for system in systems:
        if system in get_transformation(image, get_all=True):
            return float(np.sqrt(abs(np.linalg.det(affine(image, system)[:2, :2]))))
    return None


def to_pixels(
    shapes: gpd.GeoDataFrame, matrix: np.ndarray
) -> tuple[gpd.GeoDataFrame | None, np.ndarray, np.ndarray]:
    """Carries shapes into an image's pixels.

    Args:
        shapes: Polygons, multipolygons (of which the largest part is the cell), or points with `radius`.
        matrix: (3, 3) from the shapes' coordinates to pixels.

    Returns:
        polygons in pixels (None for points); (N, 2) centroids; (N,) areas in square pixels.
    """
    scale = abs(np.linalg.det(matrix[:2, :2]))
    geometry = shapely.transform(shapes.geometry.to_numpy(), lambda xy: xy @ matrix[:2, :2].T + matrix[:2, 2])
    if (shapely.get_type_id(geometry) == shapely.GeometryType.POINT).all():
        radius = shapes["radius"].to_numpy(np.float64) if "radius" in shapes else np.zeros(len(shapes))
        return None, shapely.get_coordinates(geometry), np.pi * radius**2 * scale
    geometry = _largest_part(geometry)
    centroids = shapely.get_coordinates(shapely.centroid(geometry))
    return gpd.GeoDataFrame(geometry=geometry, index=shapes.index), centroids, shapely.area(geometry)


def _largest_part(geometry: np.ndarray) -> np.ndarray:
    several = np.flatnonzero(shapely.get_num_geometries(geometry) > 1)
    single = shapely.get_geometry(geometry, 0)
    for place in several:
        parts = shapely.get_parts(geometry[place])
        single[place] = parts[np.argmax(shapely.area(parts))]
    return single
