"""How well labels of cells agree with reference annotations, type by type."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_genex.clusters.leiden import ClusterError

RARE = 0.08
"""A type with a smaller share of the annotated cells is rare (the paper's 8 %)."""


@dataclass(frozen=True)
class TypeScores:
    """Agreement with reference types over the annotated cells.

    Attributes:
        table: by type: cells, share, rare (bool), precision, recall, f1.
        confusion: cells by reference type (rows) and given label (columns; "" where none was given).
        macro_f1: mean F1 over types.
        rare_f1: mean F1 over rare types; NaN without any.
        accuracy: share of cells with the right label.
        left_out: cells without a reference annotation.
    """

    table: pd.DataFrame
    confusion: pd.DataFrame
    macro_f1: float
    rare_f1: float
    accuracy: float
    left_out: int

    @property
    def rare(self) -> list[str]:
        """Names of the rare types."""
        return list(self.table.index[self.table["rare"]])

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "macro_f1": self.macro_f1,
            "rare_f1": None if np.isnan(self.rare_f1) else self.rare_f1,
            "accuracy": self.accuracy,
            "rare_types": self.rare,
            "cells_without_annotation": self.left_out,
            "types": self.table.to_dict(orient="index"),
        }


def known(labels: pd.Series | np.ndarray) -> np.ndarray:
    """Annotations as `(N,)` str, "" where a cell has none (NaN, None or empty)."""
    series = pd.Series(np.asarray(labels, dtype=object))
    return series.where(series.notna(), "").astype(str).str.strip().to_numpy(dtype=str)


def type_scores(reference: np.ndarray, given: np.ndarray, *, rare: float = RARE) -> TypeScores:
    """F1 of every reference type.

    A type that is given to no cell has F1 = 0. Cells without an annotation are left out.

    Args:
        reference: `(N,)` str, "" where not annotated.
        given: `(N,)` str, "" where no label was given, which counts as wrong.
        rare: share below which a type is rare.

    Raises:
        ClusterError: no annotated cell.
    """
    from sklearn.metrics import precision_recall_fscore_support

    annotated = reference != ""
    if not annotated.any():
        raise ClusterError(f"none of {len(reference)} cells has a reference annotation")
    truth, label = reference[annotated], given[annotated]
    types, cells = np.unique(truth, return_counts=True)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, label, labels=types, zero_division=0)
    share = cells / cells.sum()
    table = pd.DataFrame(
        {
            "cells": cells, "share": share, "rare": share < rare, "precision": precision, "recall": recall,
            "f1": f1,
        },
        index=pd.Index(types, name="type"),
    )  # fmt: skip
    extra = sorted(set(label) - set(types) - {""})
    order = [*types, *extra, *([""] if (label == "").any() else [])]
    confusion = pd.crosstab(truth, label).reindex(index=types, columns=order, fill_value=0)
    scarce = table.loc[table["rare"], "f1"]
    return TypeScores(
        table.sort_values("cells", ascending=False, kind="stable"),
        confusion,
        float(f1.mean()),
        float(scarce.mean()) if len(scarce) else float("nan"),
        float((truth == label).mean()),
        int((~annotated).sum()),
    )


def majority(groups: np.ndarray, reference: np.ndarray, n: int) -> np.ndarray:
    """`(n,)` str, the most frequent annotation of each group's cells; "" for one without annotated cells.

    Ties go to the type that is first in the alphabet.
    """
    out = np.full(n, "", dtype=f"<U{max(1, reference.dtype.itemsize // 4)}")
    for group in range(n):
        names, cells = np.unique(reference[(groups == group) & (reference != "")], return_counts=True)
        if len(names):
            out[group] = names[cells.argmax()]
    return out


def adjusted_rand(first: np.ndarray, second: np.ndarray) -> float:
    """Adjusted Rand index over the cells that both group ("" is no group); NaN without any."""
    from sklearn.metrics import adjusted_rand_score

    both = (first.astype(str) != "") & (second.astype(str) != "")
    return float(adjusted_rand_score(first[both], second[both])) if both.any() else float("nan")
