"""What every slide must fulfil before it becomes a store."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse

from past_core.errors import PastError

STEP = 2**16
"""Cells whose counts are added up at a time."""


class SlideDataError(PastError, ValueError):
    """The parts of a slide do not fit together or hold impossible values."""


def check_table(table: AnnData, name: str) -> csr_matrix:
    """Checks cells, genes, positions and counts of a slide's table.

    Args:
        table: X counts, obsm["spatial"] (N, 2).
        name: What to call the slide in a message.

    Returns:
        (N, G) int32 counts in canonical CSR.

    Raises:
        SlideDataError: With what was found and where.
    """
    if table.n_obs == 0:
        raise SlideDataError(f"{name}: there are no cells; check that the tables belong to this slide")
    if table.n_vars == 0:
        raise SlideDataError(f"{name}: there are no genes; check the table's feature types and gene ids")
    for kind, index in (("cell", table.obs_names), ("gene", table.var_names)):
        repeated = index[index.duplicated()]
        if len(repeated):
            raise SlideDataError(
                f"{name}: {kind} id {repeated[0]!r} occurs more than once; ids must be unique"
            )
    if "spatial" not in table.obsm or np.asarray(table.obsm["spatial"]).shape != (table.n_obs, 2):
        raise SlideDataError(f'{name}: obsm["spatial"] must hold x, y of each of the {table.n_obs} cells')
    centroids = np.asarray(table.obsm["spatial"], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(centroids).all(axis=1))
    if len(bad):
        cell = table.obs_names[bad[0]]
        raise SlideDataError(
            f"{name}: {len(bad)} cells have no finite position, first cell {cell!r} (row {bad[0]})"
        )
    return whole_counts(table.X, name, table.obs_names, table.var_names)


def cell_totals(counts: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 counts and genes of each cell; some cells at a time, for sums copy what they add up."""
    sums, genes = np.zeros(counts.shape[0], np.int64), np.zeros(counts.shape[0], np.int64)
    for start in range(0, counts.shape[0], STEP):
        part = counts[start : start + STEP]
        sums[start : start + STEP] = np.asarray(part.sum(axis=1, dtype=np.int64)).ravel()
        genes[start : start + STEP] = np.asarray((part > 0).sum(axis=1)).ravel()
    return sums, genes


def whole_counts(matrix: Any, name: str, cells: pd.Index, genes: pd.Index) -> csr_matrix:
    """Turns a count matrix into canonical int32 CSR, refusing all but whole numbers from 0.

    Args:
        matrix: (N, G) dense or sparse.
        name: What to call the slide in a message.
        cells: (N,) ids for the message.
        genes: (G,) ids for the message.

    Returns:
        The counts; they share their memory with a matrix that is of this form already.

    Raises:
        SlideDataError: If a value is NaN, infinite, negative, fractional or above 2**31 - 1.
    """
    counts = csr_matrix(matrix) if issparse(matrix) else csr_matrix(np.asarray(matrix))
    values = counts.data
    wrong = (values < 0) | (values > np.iinfo(np.int32).max)
    if values.dtype.kind not in "iu":
        wrong |= ~np.isfinite(values) | (values != np.rint(values))
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        row = int(np.searchsorted(counts.indptr, place, side="right") - 1)
        raise SlideDataError(
            f"{name}: {int(wrong.sum())} counts are not whole numbers from 0; first: {values[place]} of "
            f"gene {genes[counts.indices[place]]!r} in cell {cells[row]!r} (row {row}); raw counts "
            "are needed, not normalised or logarithmic values"
        )
    if counts.dtype == np.int32 and counts.has_canonical_format and values.all():
        return counts
    counts = counts.astype(np.int32, copy=True)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts
