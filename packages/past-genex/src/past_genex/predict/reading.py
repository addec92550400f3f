"""Reads what `past predict` wrote; the values stay on disk until they are asked for."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from past_core.errors import PastError
from past_core.foreign.sizes import check_zarr

FORMAT = 1
"""Version of a prediction; a reader refuses every other one."""
KIND = "prediction"
TABLE = "predicted"
CELLS = "cells"
ROWS = 4096
"""Cells that are made, written and read at a time."""


class PredictionError(PastError, ValueError):
    """A prediction that is damaged, foreign or of another version, or that cannot be made from the input."""


class PredictionNotFoundError(PastError, FileNotFoundError):
    """There is no prediction at that path."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """Predicted expression of N cells and G genes.

    Attributes:
        path: where it is.
        expression: `(N, G)` float32, lazy (a slice reads its chunks), on the scale of `manifest["scale"]`.
        genes: by gene id: `symbol`, held-out `r`, `low`, `high`, `patients`, `setting`, `trusted` (bool).
        obs: by cell id; `area_um2` and what the source said of its cells.
        centroids: `(N, 2)` float64 x, y in level-0 pixels of the H&E.
        manifest: probe, encoder, scale, segmenter, mpp, source, software, "research use only".
    """

    path: Path
    expression: zarr.Array
    genes: pd.DataFrame
    obs: pd.DataFrame
    centroids: np.ndarray
    manifest: Mapping[str, Any]

    @property
    def cell_ids(self) -> np.ndarray:
        """`(N,)` str."""
        return self.obs.index.to_numpy(str)

    @property
    def mpp(self) -> float:
        """µm per level-0 pixel."""
        return float(self.manifest["mpp"])

    @property
    def n_cells(self) -> int:
        """N."""
        return len(self.obs)

    def batches(self, rows: int = ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        """Cells in order, a few thousand at a time: their places and `(n, G)` values."""
        for start in range(0, self.n_cells, rows):
            part = slice(start, min(start + rows, self.n_cells))
            yield part, np.asarray(self.expression[part])


def is_prediction(path: Path) -> bool:
    """Whether a folder is a prediction, of whatever version."""
    return _manifest(path).get("kind") == KIND


def read_prediction(path: str | Path) -> Prediction:
    """Opens a prediction.

    Raises:
        PredictionNotFoundError: nothing is there.
        PredictionError: something else, another version, or damaged.
    """
    from anndata.io import read_elem

    path = Path(path)
    if not path.exists():
        raise PredictionNotFoundError(f"no prediction at {path}; `past predict SLIDE -o {path}` makes one")
    manifest = _manifest(path)
    if manifest.get("kind") != KIND:
        raise PredictionError(f"{path} is no prediction; expected a folder that `past predict` wrote")
    if manifest.get("format") != FORMAT:
        raise PredictionError(
            f"{path} has format {manifest.get('format')}, this version reads {FORMAT}; predict again"
        )
    try:
        check_zarr(path / "tables" / TABLE)
        table = zarr.open_group(path / "tables" / TABLE, mode="r")
        obs, genes = read_elem(table["obs"]), read_elem(table["var"])
        centroids = np.asarray(read_elem(table["obsm/spatial"]), np.float64)
        values, places = table["X"], table["obsm/spatial"]
        if not isinstance(values, zarr.Array) or not isinstance(places, zarr.Array):
            raise ValueError("X or obsm/spatial is no array")
        for array in (values, places):
            if array.nchunks_initialized < array.nchunks:  # zarr reads them as zeros
                raise ValueError(
                    f"{array.nchunks - array.nchunks_initialized} chunks of {array.path} are gone"
                )
    except Exception as error:  # whatever zarr and anndata raise on damage
        raise PredictionError(
            f"{path} is damaged ({type(error).__name__}: {error}); predict again"
        ) from error
    if getattr(values, "shape", None) != (len(obs), len(genes)) or centroids.shape != (len(obs), 2):
        raise PredictionError(
            f"{path} is damaged: {len(obs)} cells and {len(genes)} genes with values of shape "
            f"{getattr(values, 'shape', None)} and places of {centroids.shape}; predict again"
        )
    return Prediction(
        path=path, expression=values, genes=genes, obs=obs, centroids=centroids, manifest=manifest
    )


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads((path / "zarr.json").read_text())["attributes"]["past"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
