"""Flags of cells and the counts of their reasons."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from past_core.ingest.checks import cell_totals
from past_core.ingest.quality.cells import NO_GENES, OUTSIDE_IMAGE


def quality_flags(counts: csr_matrix, centroids: np.ndarray, image_size: tuple[int, int]) -> pd.DataFrame:
    """Flags the cells that neither training nor evaluation can use; the tests that are never off.

    Args:
        counts: (N, G) raw counts.
        centroids: (N, 2) x, y in level-0 pixels; the image's top-left corner is (0, 0).
        image_size: (height, width) in level-0 pixels.

    Returns:
        One row a cell: `qc_pass` (bool) and `qc_reason` (categorical; empty where the cell passes, several
        reasons joined by `;`). Reasons: `no_genes` (no transcript of any gene), `outside_image`.
    """
    height, width = image_size
    x, y = centroids[:, 0], centroids[:, 1]
    reason = joined_reasons(
        {
            NO_GENES: cell_totals(counts)[0] <= 0,
            OUTSIDE_IMAGE: (x < 0) | (y < 0) | (x >= width) | (y >= height),
        }
    )
    return pd.DataFrame({"qc_pass": reason == "", "qc_reason": pd.Categorical(reason)})


def joined_reasons(failed: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) str objects: the names of the tests that each cell failed, joined by `;`, in the mapping's order.

    Args:
        failed: reason -> (N,) bool; at least one.
    """
    reason = np.full(len(next(iter(failed.values()))), "", dtype=object)
    for name, bad in failed.items():
        reason[bad] = [f"{before};{name}" if before else name for before in reason[bad]]
    return reason


def quality_report(obs: pd.DataFrame) -> dict[str, object]:
    """Counts cells, passing cells and each reason (a cell with two reasons counts under both)."""
    counts: dict[str, int] = {}
    for reason, number in obs["qc_reason"].astype(str).value_counts().items():
        for part in filter(None, str(reason).split(";")):
            counts[part] = counts.get(part, 0) + int(number)
    return {"cells": len(obs), "passed": int(obs["qc_pass"].sum()), "reasons": dict(sorted(counts.items()))}
