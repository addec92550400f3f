"""The cells to predict: a slide store's, nuclei found on an image, or centroids from a table."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from past_core.foreign.tables import read_csv
from past_core.slides.slide import Slide
from past_core.slides.stored import StoredSlide
from past_genex.predict.reading import PredictionError

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
"""Largest table of cells."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """N cells of one slide.

    Attributes:
        obs: by unique cell id; `area_um2` (NaN where unknown) and whatever else is known.
        centroids: `(N, 2)` x, y in level-0 pixels.
        outlines: GeoDataFrame of polygons in level-0 pixels by cell id, or None.
        segmenter: what found them.
        parameters: its settings.
    """

    obs: pd.DataFrame
    centroids: np.ndarray
    outlines: Any = None
    segmenter: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def stored_cells(slide: StoredSlide) -> Cells:
    """The cells of a slide store that passed quality control, with outlines and annotations, without counts.

    Raises:
        PredictionError: none passed.
    """
    store = slide.store
    rows = np.flatnonzero(store.passed)
    if not len(rows):
        raise PredictionError(f"{store.path}: none of its {store.n_cells} cells passed quality control")
    obs = store.obs.iloc[rows].drop(columns=["region", "cell_id"], errors="ignore").copy()
    obs.index = pd.Index(store.cell_ids[rows].astype(str))
    area = obs.get("cell_area_um2", pd.Series(np.nan, index=obs.index))
    obs.insert(0, "area_um2", area.to_numpy(np.float64))
    # What was measured of expression stays out, sums too.
    obs = obs.drop(columns=["n_counts", "n_genes"], errors="ignore")
    return Cells(
        obs=obs,
        centroids=store.centroids[rows],
        outlines=_stored_outlines(store.path, obs.index),
        segmenter="slide store",
    )


def _stored_outlines(path: Any, ids: pd.Index) -> Any:
    import geopandas as gpd

    file = Path(str(path)) / "shapes" / "cell_boundaries" / "shapes.parquet"
    if not file.is_file():
        return None
    shapes = gpd.read_parquet(file)
    shapes.index = shapes.index.astype(str)
    shapes = shapes[shapes.geometry.geom_type.isin(["Polygon", "MultiPolygon"]) & ~shapes.index.duplicated()]
    found = ids[ids.isin(shapes.index)]
    return shapes.loc[found, ["geometry"]] if len(found) else None


def found_cells(slide: Slide, *, progress: Callable[[int, int], None] | None = None) -> Cells:
    """Nuclei found on a slide.

    Args:
        slide: an open slide of known resolution.
        progress: called with tiles done and tiles in all.

    Raises:
        PredictionError: no nucleus.
        NucleiError, SlideError: see `past_core.nuclei.segment_nuclei`.
    """
    import geopandas as gpd

    from past_core.nuclei import segment_nuclei

    nuclei = segment_nuclei(slide, outlines=True, progress=progress)
    if not len(nuclei):
        raise PredictionError(
            f"{slide.path}: no nucleus found in tissue ({nuclei.segmenter}); check that it is H&E, and its "
            "resolution, or give the cells with --centroids"
        )
    ids = pd.Index([f"nucleus-{number}" for number in range(len(nuclei))], dtype=object)
    obs = pd.DataFrame({"area_um2": nuclei.areas, "haematoxylin": nuclei.haematoxylin}, index=ids)
    return Cells(
        obs=obs,
        centroids=nuclei.centroids,
        outlines=gpd.GeoDataFrame(geometry=nuclei.polygons(), index=ids),
        segmenter=nuclei.segmenter,
        parameters=nuclei.parameters,
    )


def listed_cells(slide: Slide, path: Path) -> Cells:
    """Cells by a table: `.csv`, `.tsv` or `.parquet` with x, y in level-0 pixels or x_um, y_um in µm.

    A column `cell_id` names them; without, they are numbered. `.geojson` gives polygons in level-0 pixels.

    Raises:
        PredictionError: no such file, missing columns, rows that are no numbers or outside the slide, ids
            that appear twice.
    """
    if not path.is_file():
        raise PredictionError(f"no table of centroids at {path}")
    if path.suffix.lower() == ".geojson":
        return _polygons(slide, path)
    readers = {
        ".csv": read_csv,
        ".tsv": lambda file, **options: read_csv(file, sep="\t", **options),
        ".parquet": pd.read_parquet,
    }
    if path.suffix.lower() not in readers:
        raise PredictionError(f"{path}: expected {', '.join(readers)} or .geojson")
    options = {} if path.suffix.lower() == ".parquet" else {"dtype": {"cell_id": str}, "max_bytes": MAX_BYTES}
    try:
        table = readers[path.suffix.lower()](path, **options)
    except Exception as error:  # ForeignError, and whatever pyarrow raises on damage
        raise PredictionError(f"{path} is not a readable table ({error})") from error
    names = next((pair for pair in (("x", "y"), ("x_um", "y_um")) if set(pair) <= set(table.columns)), None)
    if names is None:
        raise PredictionError(
            f"{path} has the columns {', '.join(map(str, table.columns))}; expected x and y (pixels of the "
            "full image), or x_um and y_um"
        )
    xy = table[list(names)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if names[0] == "x_um":
        xy = xy / slide.require_mpp()
    ids = table["cell_id"] if "cell_id" in table else pd.Series(np.arange(len(table)), index=table.index)
    if ids.isna().any():
        raise PredictionError(f"{path}: row {int(ids.isna().to_numpy().argmax()) + 1} has no cell_id")
    ids = pd.Index(ids.astype(str).to_numpy(), dtype=object)
    _check(slide, path, ids, xy)
    obs = pd.DataFrame({"area_um2": np.full(len(ids), np.nan)}, index=ids)
    return Cells(obs=obs, centroids=xy, segmenter="table of centroids")


def _polygons(slide: Slide, path: Path) -> Cells:
    import geopandas as gpd
    import shapely

    try:
        features = json.loads(path.read_text())
        features = features["features"] if isinstance(features, dict) else features
        shapes = shapely.from_geojson([json.dumps(each["geometry"]) for each in features])
        ids = [str(each.get("id", number)) for number, each in enumerate(features)]
    except Exception as error:  # whatever json and GEOS raise on what is no GeoJSON
        raise PredictionError(f"{path} is no readable GeoJSON of polygons ({error!r})") from error
    wrong = [number for number, shape in enumerate(shapes) if not isinstance(shape, shapely.Polygon)]
    if wrong:
        raise PredictionError(
            f"{path}: feature {wrong[0] + 1} is no polygon; expected a polygon for each cell"
        )
    index = pd.Index(ids, dtype=object)
    xy = shapely.get_coordinates(shapely.centroid(shapes)) if len(shapes) else np.zeros((0, 2))
    _check(slide, path, index, xy)
    obs = pd.DataFrame({"area_um2": shapely.area(shapes) * slide.require_mpp() ** 2}, index=index)
    outlines = gpd.GeoDataFrame(geometry=list(shapes), index=index)
    return Cells(obs=obs, centroids=xy, outlines=outlines, segmenter="GeoJSON")


def _check(slide: Slide, path: Path, ids: pd.Index, xy: np.ndarray) -> None:
    if not len(xy):
        raise PredictionError(f"{path} holds no cell")
    if len(xy) != len(ids):
        raise PredictionError(f"{path}: {len(ids)} cells, of which {len(xy)} have a place; expected all")
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        raise PredictionError(
            f"{path}: {int(bad.sum())} of {len(xy)} cells have no number for x or y, the first in row "
            f"{int(bad.argmax()) + 1} ({ids[bad.argmax()]})"
        )
    outside = ~((xy >= 0) & (xy < (slide.width, slide.height))).all(axis=1)
    if outside.any():
        first = int(outside.argmax())
        raise PredictionError(
            f"{path}: {int(outside.sum())} of {len(xy)} cells lie outside the image of {slide.width} x "
            f"{slide.height} pixels, the first in row {first + 1} ({xy[first, 0]:.1f}, {xy[first, 1]:.1f}); "
            "expected pixels of the full image (columns x, y) or µm (x_um, y_um)"
        )
    if not ids.is_unique:
        raise PredictionError(f"{path}: the cell id {ids[ids.duplicated()][0]} appears twice")
