"""One slide as expression prediction sees it: usable cells, their counts, places and annotations."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from past_core.errors import PastError
from past_core.ingest.store import SlideStore
from past_genex.data.targets import Target

logger = logging.getLogger(__name__)


class ExpressionDataError(PastError, ValueError):
    """A slide without usable cells or without what is asked of it."""


class ExpressionSlide:
    """The cells of a slide store that passed quality control and have at least one count.

    All arrays are over these cells, in the store's order (by block). Spots of an array are "cells" too.

    Args:
        store: A slide store, or its path or URL.

    Attributes:
        store: The open store.
        rows: `(N,)` their rows in the store.
        empty: Number of cells that passed quality control without a single count, left out.

    Raises:
        ExpressionDataError: no usable cell.
        StoreError, StoreNotFoundError: see `SlideStore`.
    """

    def __init__(self, store: SlideStore | str | Path) -> None:
        self.store = store if isinstance(store, SlideStore) else SlideStore(store)
        totals = np.asarray(self.store.counts.sum(axis=1)).ravel()
        passed = self.store.passed
        self.rows = np.flatnonzero(passed & (totals > 0))
        self.empty = int(np.count_nonzero(passed & (totals == 0)))
        if not len(self.rows):
            raise ExpressionDataError(
                f"{self.store.path}: none of its {self.store.n_cells} cells passed quality control with a "
                "count; ingest it again or leave it out"
            )
        if self.empty:
            logger.warning("%s: %d cells without a count are left out", self.store.path, self.empty)

    def __repr__(self) -> str:
        return (
            f"ExpressionSlide({self.name!r}, {self.patient}, {self.n_cells} cells, {len(self.genes)} genes)"
        )

    @property
    def name(self) -> str:
        """The slide's name."""
        return self.store.name

    @property
    def patient(self) -> str:
        """The patient."""
        return self.store.patient

    @property
    def cancer_type(self) -> str:
        """The cancer type; "unknown" where ingest was told none."""
        return self.store.cancer_type or "unknown"

    @property
    def n_cells(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def genes(self) -> pd.Index:
        """Ids of the genes that the slide measures (Ensembl, or the symbol where it has none)."""
        return self.store.genes.index

    @property
    def symbols(self) -> pd.Series:
        """Symbol by gene id."""
        return self.store.genes["symbol"]

    @cached_property
    def counts(self) -> sparse.csr_matrix:
        """`(N, G)` raw counts."""
        return self.store.counts[self.rows]

    @cached_property
    def totals(self) -> np.ndarray:
        """`(N,)` counts of each cell over the whole panel, positive."""
        return np.asarray(self.counts.sum(axis=1)).ravel().astype(np.float64)

    @cached_property
    def centroids(self) -> np.ndarray:
        """`(N, 2)` x, y in level-0 pixels."""
        return self.store.centroids[self.rows]

    @cached_property
    def xy_um(self) -> np.ndarray:
        """`(N, 2)` x, y in µm from the image's corner."""
        return self.centroids * self.store.mpp

    @property
    def cell_ids(self) -> np.ndarray:
        """`(N,)` str."""
        return self.store.cell_ids[self.rows]

    def annotation(self, column: str) -> pd.Series:
        """A column of `obs`, such as a reference cell type, over the usable cells.

        Raises:
            ExpressionDataError: no such column.
        """
        obs = self.store.obs
        if column not in obs:
            raise ExpressionDataError(
                f"{self.store.path}: obs has no column {column!r}; it has {', '.join(map(str, obs.columns))}"
            )
        return obs[column].iloc[self.rows]

    def scale(self, target: Target) -> float | None:
        """The total that the target brings every cell to."""
        return target.scale(self.totals)

    def expression(
        self,
        target: Target,
        genes: Sequence[str] | pd.Index | None = None,
        rows: np.ndarray | slice | None = None,
    ) -> np.ndarray:
        """The target of some cells and genes.

        Args:
            target: the scale.
            genes: gene ids; all of the slide's by default. One that the slide does not measure is NaN.
            rows: which of the usable cells; all by default.

        Returns:
            `(n, len(genes))` float64.
        """
        rows = slice(None) if rows is None else rows
        counts, totals = self.counts[rows], self.totals[rows]
        if genes is None:
            return target(counts, totals, self.scale(target))
        column = self.genes.get_indexer(pd.Index(genes))
        measured = column >= 0
        out = np.full((counts.shape[0], len(column)), np.nan)
        out[:, measured] = target(counts[:, column[measured]], totals, self.scale(target))
        return out


def union_genes(slides: Sequence[ExpressionSlide]) -> pd.Index:
    """Every gene that at least one slide measures, in order of first appearance."""
    return pd.Index(list(dict.fromkeys(gene for slide in slides for gene in slide.genes)))
