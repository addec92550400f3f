"""Manifest and table of cells of a Xenium bundle; columns are found by name."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from past_core.ingest.xenium_columns import numbers, read_table, strings
from past_core.ingest.xenium_files import BundleError, read_json

logger = logging.getLogger(__name__)

KNOWN = ((1, 0), (5, 0))
"""Versions of the analysis software whose layouts are known: from the first, up to the second."""
ORGANISMS = ("human", "mouse")
MAX_CELLS = 50_000_000
MAX_VALUE = 1e9
"""More µm², nuclei or counts no cell has."""

NUMBERS = ("x_centroid", "y_centroid", "cell_area", "nucleus_area", "nucleus_count", "transcript_counts")

_VERSION = re.compile(r"^[xX]enium-(\d{1,4})\.(\d{1,4})\.(\d+)")


@dataclass(frozen=True)
class Experiment:
    """The parts of experiment.xenium that the reader needs.

    Attributes:
        pixel_size: Micrometres of a pixel of masks and morphology image.
        version: Major and minor version of the software that made the bundle last, or None where the
            manifest does not tell.
        version_text: The version as written.
        region: Name of the region, empty where there is none.
        organism: Organism of the panel as written, empty where there is none.
        panel: Name of the panel, empty where there is none.
        num_cells: Number of cells that the manifest states, or None.
        resegmented: Xenium Ranger made the bundle again.
    """

    pixel_size: float
    version: tuple[int, int] | None
    version_text: str
    region: str
    organism: str
    panel: str = ""
    num_cells: int | None = None
    resegmented: bool = False


def read_experiment(path: Path) -> Experiment:
    """Reads experiment.xenium.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: It is no JSON object or its `pixel_size` is not a positive number.
    """
    content = read_json(path, "the manifest of a Xenium output bundle")
    pixel_size = content.get("pixel_size")
    if isinstance(pixel_size, bool) or not isinstance(pixel_size, int | float) or not 1e-3 < pixel_size < 1e3:
        raise BundleError(
            f"{path}: pixel_size is {str(pixel_size)[:100]!r}, expected a positive number of µm such as "
            "0.2125"
        )

    def text(key: str) -> str:
        value = content.get(key)
        return value.strip() if isinstance(value, str) else ""

    # Xenium Ranger rewrites the bundle in its own version's layout and leaves the instrument's in place.
    ranger = content.get("xenium_ranger")
    by_ranger = ranger.get("version") if isinstance(ranger, dict) else None
    version = by_ranger if isinstance(by_ranger, str) and by_ranger else text("analysis_sw_version")
    match = _VERSION.match(version)
    stated = content.get("num_cells")
    return Experiment(
        pixel_size=float(pixel_size),
        version=(int(match[1]), int(match[2])) if match else None,
        version_text=version[:200],
        region=text("region_name"),
        organism=text("panel_organism"),
        panel=text("panel_name"),
        num_cells=stated if isinstance(stated, int) and not isinstance(stated, bool) else None,
        resegmented=isinstance(ranger, dict),
    )


def read_cells(path: Path) -> pd.DataFrame:
    """Reads cells.parquet or cells.csv.gz.

    Ids that a version before 1.3 writes as whole numbers become decimal strings, as in its count matrix.

    Returns:
        One row a cell, indexed by cell id: x_centroid, y_centroid (µm) and, where the file has them,
        cell_area, nucleus_area (µm²), nucleus_count, transcript_counts (all float64), segmentation_method.
        `attrs["integer_ids"]` says whether the ids were whole numbers.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: Damaged, a column is missing, no cells, an id is missing or repeated, a column holds no
            numbers, or an area or number is negative or infinite.
    """
    table = read_table(
        path,
        "the table of cells",
        required=("cell_id", "x_centroid", "y_centroid"),
        optional=(*NUMBERS[2:], "segmentation_method"),
        max_rows=MAX_CELLS,
    )
    if table.num_rows == 0:
        raise BundleError(f"{path} holds no cells; check that the segmentation of this region found any")
    ids = strings(table["cell_id"], path)
    empty = ids.is_null().to_numpy(zero_copy_only=False) | (ids.to_numpy(zero_copy_only=False) == "")
    if empty.any():
        raise BundleError(f"{path}: column cell_id has no value in row {int(np.flatnonzero(empty)[0])}")
    index = pd.Index(ids.to_numpy(zero_copy_only=False), name="cell_id", dtype=object)
    repeated = np.flatnonzero(index.duplicated())
    if repeated.size:
        row = int(repeated[0])
        raise BundleError(f"{path}: column cell_id repeats {index[row]!r} in row {row}; ids must be unique")
    cells = pd.DataFrame(index=index)
    for column in NUMBERS:
        if column in table.column_names:
            cells[column] = numbers(table[column], column, path)
    for column in cells.columns.difference(["x_centroid", "y_centroid"]):
        values = cells[column].to_numpy()
        whole = column == "nucleus_count"
        bad = np.flatnonzero((values < 0) | (values > MAX_VALUE) | (whole & (np.floor(values) < values)))
        if bad.size:
            raise BundleError(
                f"{path}: column {column} is {values[bad[0]]} in row {bad[0]}, expected a "
                f"{'whole ' if whole else ''}number from 0 to {MAX_VALUE:.0e}"
            )
    if "segmentation_method" in table.column_names:
        method = strings(table["segmentation_method"], path).to_numpy(zero_copy_only=False)
        cells["segmentation_method"] = pd.Categorical(pd.Series(method, index=index).fillna(""))
    kind = table["cell_id"].type
    cells.attrs["integer_ids"] = pa.types.is_integer(kind) or all(name.isdigit() for name in index)
    return cells
