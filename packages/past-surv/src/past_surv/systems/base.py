"""What a system of survival gets and gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from past_core.errors import PastError
from past_surv.data.cohort import Cohort
from past_surv.data.groups import group_columns
from past_surv.data.splits import Fold


class SystemInputError(PastError, ValueError):
    """A cohort that lacks what a system learns from."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldPrediction:
    """What a system says of the N scored patients of a fold, in the order of `fold.test`.

    Attributes:
        risk: `(N,)` float64, higher means a shorter survival; NaN for a patient who has nothing that the
            system reads, as a slide.
        survival: `(N, K)` probability of living beyond `edges[1:]`; NaN where `risk` is. None where the
            system only orders patients.
        edges: `(K + 1,)` ascending edges of the K intervals; the first is -inf, the last inf, so that the
            last column of `survival` speaks of no time.
        info: what was done, for the record: numbers, strings, and lists of them.
    """

    risk: np.ndarray
    survival: np.ndarray | None = None
    edges: np.ndarray | None = None
    info: dict[str, object] = field(default_factory=dict)


class SurvivalSystem(Protocol):
    """Learns from the training rows of a fold, and orders the scored rows by risk."""

    name: str

    def risk(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> np.ndarray:
        """`(len(fold.test),)` risks, higher means a shorter survival; scored outcomes are never read."""
        ...

    def predict(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> FoldPrediction:
        """The same risks, survival curves where the system has them, and what was done."""
        ...


class Predicting:
    """A system whose `predict` does the work; `risk` is its short form."""

    def predict(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> FoldPrediction:
        """Learns from the training rows and predicts the scored ones."""
        raise NotImplementedError

    def risk(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> np.ndarray:
        """`(len(fold.test),)` risks, higher means a shorter survival."""
        return self.predict(cohort, fold, seed=seed).risk


def gene_columns(
    cohort: Cohort,
    columns: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """The columns of genes that a system reads, each once: those given, of the groups, or all of the cohort.

    Raises:
        SystemInputError: a cohort without any, or without one of those given.
    """
    if columns is not None:
        absent = [name for name in columns if name not in cohort.omics]
        if absent or not columns:
            found = f"no column {absent[0]!r}" if absent else "no columns of genes were given"
            raise SystemInputError(
                f"{cohort.name}: {found}; it has {cohort.omics.shape[1]:,} columns of genes"
            )
        return list(columns)
    if not cohort.omics.shape[1]:
        raise SystemInputError(
            f"{cohort.name}: no columns of genes; expected some that end in _rnaseq, _cnv or _mut. Systems "
            "on genes cannot be used here"
        )
    if groups is None:
        return list(cohort.omics.columns)
    return sorted({name for group in group_columns(cohort, groups) for name in group.columns})


def rank_sum(*risks: np.ndarray) -> np.ndarray:
    """Joins risks of different scales: the mean of their ranks, `(N,)`.

    Where one risk is NaN the ranks of the others count; where all are, so is the mean.
    """
    from scipy.stats import rankdata

    ranks = []
    for risk in risks:
        there = ~np.isnan(risk)
        rank = np.full(len(risk), np.nan)
        # Ranks among fewer are stretched to the same range.
        rank[there] = rankdata(risk[there]) * ((len(risk) + 1) / (there.sum() + 1))
        ranks.append(rank)
    known = ~np.isnan(ranks)
    total, count = np.where(known, ranks, 0.0).sum(axis=0), known.sum(axis=0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
