"""One system's figures by tumour type, and over tumour types."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_genex.metrics.pairs import PairMoments

FIGURES = ("r_pooled", "r_slide", "r2_pooled", "r2_slide")


class SummaryError(PastError, ValueError):
    """Moments and units that do not belong together."""


@dataclass(frozen=True)
class Summary:
    """Figures of one system.

    Attributes:
        types: one row a tumour type, with its `FIGURES`; "genes" scored, "constant" genes (measured, without
            variation of the truth) and "unmeasured" ones, both left out; "flat" genes, whose prediction alone
            is constant (they count as r = 0); "patients", "slides" and "cells".
        mean: of each figure over the tumour types that have one.
        sd: sample standard deviation (ddof = 1) over these; NaN for a single type.
    """

    types: pd.DataFrame
    mean: pd.Series
    sd: pd.Series


def summarise(pairs: PairMoments, units: pd.DataFrame, *, across_folds: bool = True) -> Summary:
    """Mean over genes of r and R², pooled and by slide, for every tumour type.

    - Pooled: all test cells of the type are one set. r of each gene, mean over the genes that have one. With
      `across_folds=False` the sets are the type's test cells of one fold, and a gene's value is its mean over
      folds: the offset between the models of two folds is then not part of r.
    - By slide: the test cells of one slide (and one fold, always) are a set. Mean over the genes that have an
      r there, then over the folds of a slide, then over slides.
    - Over types: mean and standard deviation (ddof = 1) of the types' figures, each type counting once.

    Genes follow `PairMoments.r`: those whose truth is constant in a set, or not measured, are left out of the
    mean of that set. "constant" and "unmeasured" count genes over all test cells of the type.

    Args:
        pairs: `(U, G)`.
        units: U rows with "fold", "patient", "cancer_type" and "slide".
        across_folds: what pooled means.

    Raises:
        SummaryError: another number of units, or none.
    """
    if pairs.n.ndim != 2 or len(units) != len(pairs.n) or not len(units):
        raise SummaryError(
            f"moments of shape {pairs.n.shape} for {len(units)} units; expected (units, genes)"
        )
    rows = {}
    for name, index in units.groupby("cancer_type", sort=False, observed=True).indices.items():
        part, own = pairs[index], units.iloc[index].reset_index(drop=True)
        whole = part.merged()
        if across_folds:
            r, r2 = whole.r, whole.r2
        else:
            sets = [part[i].merged() for i in own.groupby("fold", observed=True).indices.values()]
            r, r2 = _by_column(np.stack([s.r for s in sets])), _by_column(np.stack([s.r2 for s in sets]))
        r_slide, r2_slide = _by_slide(part, own)
        measured = whole.n > 0
        rows[name] = {
            "r_pooled": _mean(r),
            "r_slide": r_slide,
            "r2_pooled": _mean(r2),
            "r2_slide": r2_slide,
            "genes": int((~np.isnan(r)).sum()),
            "constant": int((measured & whole.constant_truth).sum()),
            "unmeasured": int((~measured).sum()),
            "flat": int((~whole.constant_truth & whole.constant_prediction).sum()),
            "patients": own["patient"].nunique(),
            "slides": own["slide"].nunique(),
            "cells": int(part.n.max(axis=1).sum()),
        }
    types = pd.DataFrame.from_dict(rows, orient="index").rename_axis("cancer_type")
    figures = types[list(FIGURES)].astype(np.float64)
    return Summary(types, figures.mean(), figures.std(ddof=1))


def _by_slide(pairs: PairMoments, units: pd.DataFrame) -> tuple[float, float]:
    slides: dict[str, list[tuple[float, float]]] = {}
    for (slide, _), index in units.groupby(["slide", "fold"], observed=True).indices.items():
        whole = pairs[index].merged()
        slides.setdefault(slide, []).append((_mean(whole.r), _mean(whole.r2)))
    r, r2 = _by_column(np.stack([_by_column(np.array(folds)) for folds in slides.values()]))
    return float(r), float(r2)


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN among `(n,)`; NaN where all is."""
    return float(_by_column(values))


def _by_column(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    n = known.sum(axis=0)
    return np.where(n > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)
