"""Retrieval through the joint space: a test cell's image finds training cells by their transcriptomes.

As in BLEEP (Xie et al., "Spatially resolved gene expression prediction from histology images via bi-modal
contrastive learning", NeurIPS 2023): the expression of the k most similar cells of the bank is averaged.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from past_core.errors import PastError
from past_genex.data.features import joint_features
from past_genex.systems.base import (
    Prediction,
    Surroundings,
    SystemUnavailableError,
    fold_cells,
    require_training,
)
from past_genex.systems.features import EncoderFeatures
from past_genex.systems.mean import training_mean

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_core.frozen_cell import FrozenCellEncoder
    from past_genex.data.splits import Fold, Split

QUERIES = 1024
"""Test cells compared at a time."""
BANK = 32768
"""Cells of the bank compared at a time."""


class RetrievalError(PastError, ValueError):
    """A number of retrieved cells that makes no sense."""


def nearest(queries: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    """The k most similar rows of a bank, in no order.

    Args:
        queries: `(n, d)` unit vectors.
        bank: `(M, d)` unit vectors, M >= k.
        k: how many.

    Returns:
        `(n, k)` int64.
    """
    best = np.empty((len(queries), 0), np.float32)
    index = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(bank), BANK):
        part = queries @ np.asarray(bank[start : start + BANK]).T
        best = np.concatenate([best, part], axis=1)
        here = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
        index = np.concatenate([index, here], axis=1)
        if best.shape[1] > k:
            keep = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, index = np.take_along_axis(best, keep, 1), np.take_along_axis(index, keep, 1)
    return index


class Retrieval:
    """The mean expression of the k training cells whose transcriptomes fit a test cell's image best.

    A gene is averaged over the retrieved cells whose panel measures it; where there is none, it gets the mean
    of the training cells.

    Args:
        image: image encoder in the joint space.
        cell: cell encoder of the same checkpoint, in the joint space.
        surroundings: target, cache, device.
        k: retrieved cells; BLEEP's 50.
    """

    def __init__(
        self,
        image: "FrozenEncoder",
        cell: "FrozenCellEncoder | None",
        surroundings: Surroundings,
        *,
        k: int = 50,
    ) -> None:
        if k < 1:
            raise RetrievalError(f"k is {k}; at least one cell must be retrieved")
        if cell is None or image.space != "joint" or cell.space != "joint":
            raise SystemUnavailableError(
                f"{image.name} has no joint space of images and cells; retrieval needs a checkpoint of PAST"
            )
        self.name = f"retrieval:{image.name}"
        self._features = EncoderFeatures(image, surroundings)
        self._cell, self._surroundings, self.k = cell, surroundings, k

    def predict(self, split: "Split", fold: "Fold", genes: pd.Index) -> Iterator[Prediction]:
        """See `System`.

        Raises:
            SystemUnavailableError: the bank has fewer than k cells.
        """
        from past_core.encoders import resolve_device

        bank, owners = [], []
        self._cell.to(resolve_device(self._surroundings.device))
        for number, cells in require_training(split, fold, genes):
            vectors = joint_features(
                split.slides[number],
                self._cell,
                cache=self._surroundings.cache,
                batch_size=self._surroundings.batch_size,
            )[cells]
            known = np.isfinite(vectors).all(axis=1)
            bank.append(vectors[known])
            owners.append((number, cells[known]))
        vectors = np.concatenate(bank)
        if len(vectors) < self.k:
            raise SystemUnavailableError(
                f"fold {fold.name}: {len(vectors)} training cells with genes that {self._cell.name} knows; "
                f"retrieval averages {self.k}"
            )
        starts = np.cumsum([0, *(len(cells) for _, cells in owners)])
        fallback = training_mean(split, fold, genes, self._surroundings.target)
        for number, cells in fold_cells(split, fold.test):
            queries = self._features.of(split.slides[number])
            for start in range(0, len(cells), QUERIES):
                part = cells[start : start + QUERIES]
                found = nearest(np.asarray(queries[part]), vectors, self.k)
                yield number, part, self._average(split, owners, starts, found, genes, fallback)

    def _average(
        self,
        split: "Split",
        owners: list[tuple[int, np.ndarray]],
        starts: np.ndarray,
        found: np.ndarray,
        genes: pd.Index,
        fallback: np.ndarray,
    ) -> np.ndarray:
        """`(n, G)` mean expression of the `(n, k)` retrieved rows of the bank."""
        total = np.zeros((len(found), len(genes)))
        number_of = np.zeros_like(total)
        rows = np.repeat(np.arange(len(found)), found.shape[1])
        flat = found.ravel()
        for (number, cells), first, last in zip(owners, starts[:-1], starts[1:], strict=True):
            here = (flat >= first) & (flat < last)
            if not here.any():
                continue
            wanted, column = np.unique(flat[here] - first, return_inverse=True)
            slide = split.slides[number]
            measured = genes.isin(slide.genes)
            values = slide.expression(self._surroundings.target, genes[measured], cells[wanted])
            weights = sparse.csr_matrix(
                (np.ones(len(column)), (rows[here], column)), shape=(len(found), len(wanted))
            )
            total[:, measured] += weights @ values
            number_of[:, measured] += np.asarray(weights.sum(axis=1))
        return np.where(number_of > 0, total / np.maximum(number_of, 1), fallback)
