"""How well found nuclei agree with drawn ones."""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching

from past_core.nuclei.errors import NucleiError


def f1_at_iou(true_labels: np.ndarray, found_labels: np.ndarray, iou: float = 0.5) -> float:
    """F1 of nuclei whose intersection over union with a drawn nucleus reaches a threshold.

    F1 = 2 TP / (drawn + found) (the average precision of DSB 2018 and StarDist counts the same pairs). Each
    nucleus is in at most one pair; TP is the size of the largest matching. From 0.5 upwards a nucleus has at
    most one possible partner, but for two halves at exactly 0.5.

    Args:
        true_labels: `(H, W)` whole numbers, 0 outside nuclei.
        found_labels: likewise.
        iou: threshold, above 0 and at most 1, inclusive.

    Returns:
        0 to 1; 1 where neither image has a nucleus.

    Raises:
        NucleiError: images of different shapes, not whole numbers, or no such threshold.
    """
    rows, columns, size = overlapping_pairs(true_labels, found_labels, iou)
    if not sum(size):
        return 1.0
    graph = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=size)
    hits = int((maximum_bipartite_matching(graph) >= 0).sum()) if len(rows) else 0
    return 2 * hits / sum(size)


def overlapping_pairs(
    true_labels: np.ndarray, found_labels: np.ndarray, iou: float = 0.5
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Pairs whose IoU reaches a threshold: ranks of their labels, and the numbers of nuclei.

    Raises:
        NucleiError: see `f1_at_iou`.
    """
    if true_labels.shape != found_labels.shape or not (
        np.issubdtype(true_labels.dtype, np.integer) and np.issubdtype(found_labels.dtype, np.integer)
    ):
        raise NucleiError(
            f"labels {true_labels.shape} {true_labels.dtype} and {found_labels.shape} {found_labels.dtype}; "
            "expected two images of whole numbers of one shape"
        )
    if not 0 < iou <= 1:
        raise NucleiError(f"an IoU of {iou}; expected above 0 and at most 1")
    names, ranks, counts = [], [], []
    for labels in (true_labels, found_labels):
        values, inverse = np.unique(labels, return_inverse=True)
        keep = values != 0
        rank = np.where(keep, np.cumsum(keep) - 1, -1)
        names.append(int(keep.sum()))
        ranks.append(rank[inverse].ravel())
        counts.append(np.bincount(ranks[-1] + 1, minlength=names[-1] + 1)[1:])
    both = (ranks[0] >= 0) & (ranks[1] >= 0)
    code, shared = np.unique(ranks[0][both] * max(names[1], 1) + ranks[1][both], return_counts=True)
    rows, columns = np.divmod(code, max(names[1], 1))
    good = shared >= iou * (counts[0][rows] + counts[1][columns] - shared)
    return rows[good], columns[good], (names[0], names[1])
