"""Predictions brought to the cells and genes of a measured slide."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from past_core.foreign.sizes import check_hdf5, check_zarr
from past_genex.clusters.leiden import ClusterError
from past_genex.data.slides import ExpressionSlide

TOLERANCE_PX = 2.0
"""Largest distance between a cell's place in the prediction and in the slide it was made for."""


@dataclass(frozen=True)
class PredictedCells:
    """Predicted expression as `past cluster` needs it.

    Attributes:
        expression: `(M, G)` on the log scale.
        cell_ids: `(M,)` str.
        genes: `(G,)` ids.
        r: `(G,)` held-out r, NaN where unknown; None where the prediction states none.
        centroids: `(M, 2)` x, y in level-0 pixels, or None.
        slide: name of the slide, or None.
        normalisation: of the target, or None.
        source: where it came from, for messages.
    """

    expression: np.ndarray
    cell_ids: np.ndarray
    genes: pd.Index
    r: np.ndarray | None = None
    centroids: np.ndarray | None = None
    slide: str | None = None
    normalisation: str | None = None
    source: str = "the prediction"


def match_cells(slide: ExpressionSlide, predicted: PredictedCells) -> np.ndarray:
    """`(N,)` row of the prediction for each usable cell of the slide.

    Predicted cells that the slide left out are ignored.

    Raises:
        ClusterError: ids that appear twice, cells without a prediction, or a prediction of another slide.
    """
    ids = pd.Index(np.asarray(predicted.cell_ids).astype(str))
    if predicted.slide is not None and predicted.slide != slide.name:
        raise ClusterError(
            f"{predicted.source} is a prediction of slide {predicted.slide!r}, but {slide.store.path} is "
            f"{slide.name!r}; give the prediction of this slide"
        )
    if not ids.is_unique:
        raise ClusterError(
            f"{predicted.source}: cell id {ids[ids.duplicated()][0]!r} appears more than once; "
            "ids must be unique"
        )
    row = ids.get_indexer(pd.Index(np.asarray(slide.cell_ids).astype(str)))
    found = int(np.count_nonzero(row >= 0))
    if found < slide.n_cells:
        raise ClusterError(
            f"{predicted.source} has predictions for {found} of the {slide.n_cells} usable cells of "
            f"{slide.store.path} ({len(ids)} predicted cells in all); predict this slide again"
        )
    if predicted.centroids is not None:
        apart = np.linalg.norm(predicted.centroids[row] - slide.centroids, axis=1)
        astray = int(np.count_nonzero(~(apart <= TOLERANCE_PX)))
        if astray:
            raise ClusterError(
                f"{predicted.source}: {astray} of {len(row)} cells lie elsewhere than in "
                f"{slide.store.path} (by {apart.max():.0f} px at most); it is of another slide"
            )
    return row


def choose_genes(
    slide: ExpressionSlide, predicted: PredictedCells | None, *, min_r: float | None = None
) -> pd.Index:
    """Genes to cluster on: measured ones, that are also predicted, and on demand predicted reliably.

    Args:
        slide: the measured slide.
        predicted: the prediction, if any.
        min_r: least held-out r; None takes all shared genes.

    Raises:
        ClusterError: no shared gene, no gene that reliable, or a prediction without held-out r.
    """
    if predicted is None:
        if min_r is not None:
            raise ClusterError(
                "reliable genes are known from a prediction only; give one, or take shared genes"
            )
        return pd.Index(slide.genes)
    shared = pd.Index(slide.genes)[pd.Index(slide.genes).isin(predicted.genes)]
    if not len(shared):
        raise ClusterError(
            f"{slide.store.path} ({len(slide.genes)} genes, such as {slide.genes[0]!r}) and "
            f"{predicted.source} ({len(predicted.genes)} genes{_example(predicted.genes)}) share no gene; "
            "both need the same ids"
        )
    if min_r is None:
        return shared
    if predicted.r is None or np.isnan(predicted.r).all():
        raise ClusterError(
            f"{predicted.source} states no held-out r of its genes; take shared genes, or predict with a "
            "probe that has been validated"
        )
    r = np.asarray(predicted.r)[predicted.genes.get_indexer(shared)]
    if not (r >= min_r).any():
        raise ClusterError(
            f"{predicted.source}: none of {len(shared)} shared genes has a held-out r of {min_r:g} (the best "
            f"has {np.nanmax(r) if np.isfinite(r).any() else float('nan'):.2f}); give a lower --min-r"
        )
    return shared[r >= min_r]


def read_predicted(path: Path) -> PredictedCells:
    """Reads predicted expression from a store or a table.

    Args:
        path: a SpatialData store with one table of predictions, or an AnnData (`.h5ad`, `.zarr`). Cell ids
            are `obs["cell_id"]` or the names of the rows, genes the names of the columns, `var["r"]` their
            held-out r, `obsm["spatial"]` level-0 pixels, `uns["past"]` the manifest.

    Raises:
        ClusterError: not such a file, several tables, genes that appear twice.
    """
    import anndata as ad

    if not path.exists():
        raise ClusterError(f"{path}: no such prediction; make one with past predict")
    try:
        if path.suffix == ".h5ad":
            check_hdf5(path)
            table = ad.read_h5ad(path)
        else:
            folder = _table_folder(path)
            check_zarr(folder)
            table = ad.read_zarr(folder)
    except ClusterError:
        raise
    except Exception as error:  # whatever the readers raise on a file that is none of theirs
        raise ClusterError(f"{path}: not a readable prediction ({type(error).__name__}: {error})") from error
    genes = pd.Index(table.var_names.astype(str))
    if not genes.is_unique:
        raise ClusterError(f"{path}: gene {genes[genes.duplicated()][0]!r} appears more than once")
    manifest = table.uns.get("past", {})
    values = table.X.toarray() if hasattr(table.X, "toarray") else np.asarray(table.X)
    ids = table.obs.get("cell_id", table.obs_names)
    return PredictedCells(
        values,
        np.asarray(ids).astype(str),
        genes,
        r=table.var["r"].to_numpy(np.float64) if "r" in table.var else None,
        centroids=np.asarray(table.obsm["spatial"]) if "spatial" in table.obsm else None,
        slide=_entry(manifest, "slide", "name"),
        normalisation=_entry(manifest, "normalisation"),
        source=str(path),
    )


def _table_folder(path: Path) -> Path:
    tables = path / "tables"
    if not tables.is_dir():
        return path
    found = sorted(each for each in tables.iterdir() if each.is_dir())
    if len(found) != 1:
        raise ClusterError(f"{path}: {len(found)} tables; expected one, of predicted expression")
    return found[0]


def _example(genes: pd.Index) -> str:
    return f", such as {genes[0]!r}" if len(genes) else ""


def _entry(manifest: Mapping[str, object], *names: str) -> str | None:
    return next((str(manifest[name]) for name in names if isinstance(manifest.get(name), str)), None)
