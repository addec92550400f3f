"""Expression that `past predict` wrote for the cells of a slide, turned back into what counts would be."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy import sparse

from past_core.errors import PastError
from past_core.foreign.errors import ForeignError
from past_core.foreign.sizes import check_zarr
from past_core.foreign.tables import read_csv

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of a prediction that is read."""
NORMALISATIONS = ("median", "10k", "none")
"""Scales whose inverse is known: all are log1p of counts, divided by a number of the cell or not at all. That
number does not matter to rank tokens, so that expm1 is enough."""


class ExpressionError(PastError, ValueError):
    """A prediction that is damaged, of another kind, or on a scale that cannot be undone."""


class ExpressionNotFoundError(PastError, FileNotFoundError):
    """There is no prediction at that path."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictedSlide:
    """Predicted expression of the N cells of a slide, lazy.

    Attributes:
        path: of the store.
        slide: its name.
        genes: G Ensembl ids.
        xy_um: `(N, 2)` places of the cells.
        normalisation: of `NORMALISATIONS`.
        manifest: all that the store says of how it was made.
        values: `(N, G)`, on that scale; a slice reads its chunks.
    """

    path: Path
    slide: str
    genes: tuple[str, ...]
    xy_um: np.ndarray
    normalisation: str
    manifest: Mapping[str, Any]
    values: Any

    @property
    def n_cells(self) -> int:
        """N."""
        return len(self.xy_um)

    def counts(self, rows: np.ndarray, *, least: float = 0.5) -> sparse.csr_matrix:
        """Predicted counts of some cells.

        Args:
            rows: which, ascending.
            least: what is predicted below this number of counts is none, as measured counts are whole:
                otherwise every cell would express every gene.

        Returns:
            `(len(rows), G)`.

        Raises:
            ExpressionError: values that are not finite.
        """
        values = np.asarray(self.values.oindex[np.asarray(rows, np.int64)], np.float64)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, gene = bad[0]
            raise ExpressionError(
                f"{self.path}: {len(bad)} predicted values are NaN or infinite, the first of cell "
                f"{rows[row]} and {self.genes[gene]}; predict again"
            )
        made = np.expm1(np.maximum(values, 0))
        made[made < least] = 0
        return sparse.csr_matrix(made)


def read_predicted(path: str | Path) -> PredictedSlide:
    """Opens what `past predict SLIDE -o PRED.zarr` wrote.

    Raises:
        ExpressionNotFoundError: nothing is there.
        ExpressionError: something else, another version, damaged, or on an unknown scale.
    """
    from anndata.io import read_elem

    path = Path(path)
    if not path.exists():
        raise ExpressionNotFoundError(f"{path}: no such prediction; `past predict SLIDE -o {path}` makes one")
    manifest = _manifest(path)
    if manifest.get("kind") != "prediction" or manifest.get("format") != FORMAT:
        raise ExpressionError(
            f"{path}: kind {manifest.get('kind')!r}, format {manifest.get('format')!r}; expected a folder of "
            f"format {FORMAT} that `past predict` wrote"
        )
    if manifest.get("normalisation") not in NORMALISATIONS:
        raise ExpressionError(
            f"{path}: predicted on the scale {manifest.get('scale')!r} (normalisation "
            f"{manifest.get('normalisation')!r}); counts can be had from {', '.join(NORMALISATIONS)} only"
        )
    try:
        check_zarr(path / "tables" / "predicted")
        table = zarr.open_group(path / "tables" / "predicted", mode="r")
        genes = read_elem(table["var"]).index.astype(str)
        places = np.asarray(read_elem(table["obsm/spatial"]), np.float64)
        values, mpp = table["X"], float(manifest["mpp"])
        stored = table["obsm/spatial"]
        if not isinstance(values, zarr.Array) or not isinstance(stored, zarr.Array):
            raise ValueError("X or obsm/spatial is no array")
        for array in (values, stored):
            # Chunks that are gone are read as zeros.
            if array.nchunks_initialized < array.nchunks:
                raise ValueError(
                    f"{array.nchunks - array.nchunks_initialized} chunks of {array.path} are gone"
                )
    except Exception as error:  # whatever zarr and anndata raise on damage
        raise ExpressionError(
            f"{path} is damaged ({type(error).__name__}: {error}); predict again"
        ) from error
    if getattr(values, "shape", None) != (len(places), len(genes)) or places.shape[1:] != (2,):
        raise ExpressionError(
            f"{path} is damaged: values of shape {getattr(values, 'shape', None)} for {len(genes)} genes and "
            f"places of shape {places.shape}; predict again"
        )
    if not (len(places) and np.isfinite(places).all() and mpp > 0):
        raise ExpressionError(
            f"{path}: {len(places)} cells at {mpp} µm per pixel, or places that are not finite"
        )
    return PredictedSlide(
        path=path,
        slide=str(manifest.get("slide") or path.stem),
        genes=tuple(genes),
        xy_um=places * mpp,
        normalisation=manifest["normalisation"],
        manifest=manifest,
        values=values,
    )


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads((path / "zarr.json").read_text())["attributes"]["past"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def find_predictions(place: str | Path) -> dict[str, Path]:
    """Stores by the slide's (or, from a sheet, the case's) name.

    Args:
        place: a folder of `SLIDE.zarr`, or a CSV with the columns `prediction` (a path, from the sheet's
            folder on) and `slide` or `case_id`; a case may have several rows.

    Raises:
        ExpressionNotFoundError: no such place, or no store in it.
        ExpressionError: a sheet without these columns, or a slide that appears twice.
    """
    place = Path(place)
    if place.is_dir():
        if (place / "zarr.json").is_file():
            return {place.stem: place}
        found = {path.stem: path for path in sorted(place.glob("*.zarr")) if not path.name.startswith(".")}
        if not found:
            raise ExpressionNotFoundError(f"{place}: no *.zarr of `past predict` in it")
        return found
    if not place.is_file():
        raise ExpressionNotFoundError(f"{place}: no such folder of predictions, or sheet of them")
    return _from_sheet(place)


def _from_sheet(place: Path) -> dict[str, Path]:
    try:
        sheet = read_csv(place, dtype=str)
    except (ForeignError, OSError) as error:
        raise ExpressionError(f"{place}: not a sheet (CSV with a header): {error}") from error
    name = next((column for column in ("slide", "slide_id", "case_id") if column in sheet), None)
    if "prediction" not in sheet or name is None:
        raise ExpressionError(
            f"{place}: columns {', '.join(map(str, sheet.columns))}; expected prediction, and slide or "
            "case_id"
        )
    found: dict[str, Path] = {}
    for line, (slide, path) in enumerate(zip(sheet[name], sheet["prediction"], strict=True), start=2):
        if not (isinstance(slide, str) and isinstance(path, str)):
            raise ExpressionError(f"{place}, line {line}: {name} or prediction is empty")
        key = slide if name != "case_id" else f"{slide}/{Path(path).stem}"
        if key in found:
            raise ExpressionError(f"{place}, line {line}: {name} {slide} has this prediction already")
        found[key] = place.parent / path
    return found
