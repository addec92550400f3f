"""Labels by retrieval: those of the reference cells that a query is nearest to in an embedding space."""

import numpy as np

from past_genex.clusters.leiden import ClusterError


def retrieve_labels(
    queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, *, k: int = 20, chunk: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """The label that most of the k most similar reference cells carry.

    In the joint space, queries are image embeddings and the bank transcriptomes' of annotated cells. Votes
    count alike; where labels tie, the one with the larger sum of cosines wins, then the alphabet.

    Args:
        queries: `(N, d)` of any length, not zero.
        bank: `(M, d)`.
        labels: `(M,)` str; reference cells without one ("") are left out.
        k: voters; all of the bank where it is smaller.
        chunk: queries at a time.

    Returns:
        `(N,)` labels and `(N,)` share of the votes.

    Raises:
        ClusterError: vectors that do not fit, are not finite or zero; no labelled reference cell; k < 1.
    """
    from past_genex.systems.retrieval import nearest

    queries, bank, labels = _unit(queries, "queries"), _unit(bank, "reference cells"), np.asarray(labels, str)
    if queries.shape[1] != bank.shape[1] or len(labels) != len(bank):
        raise ClusterError(
            f"queries {queries.shape}, reference cells {bank.shape}, {len(labels)} labels; expected vectors "
            "of one space and a label for each reference cell"
        )
    if k < 1:
        raise ClusterError(f"k is {k}; at least one cell must vote")
    bank, labels = bank[labels != ""], labels[labels != ""]
    if not len(bank):
        raise ClusterError("no reference cell carries a label; give annotated reference slides")
    k = min(k, len(bank))
    names, codes = np.unique(labels, return_inverse=True)
    winner, share = np.empty(len(queries), np.int64), np.empty(len(queries))
    for start in range(0, len(queries), chunk):
        part = queries[start : start + chunk]
        found = nearest(part, bank, k)
        similar = np.einsum("nd,nkd->nk", part, bank[found], dtype=np.float64)
        rows = np.repeat(np.arange(len(part)), k)
        votes, weight = np.zeros((2, len(part), len(names)))
        np.add.at(votes, (rows, codes[found].ravel()), 1)
        np.add.at(weight, (rows, codes[found].ravel()), similar.ravel() + 1)
        top = votes.max(axis=1, keepdims=True)
        winner[start : start + chunk] = np.where(votes == top, weight, -1).argmax(axis=1)
        share[start : start + chunk] = top[:, 0] / k
    return names[winner], share


def _unit(vectors: np.ndarray, what: str) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2:
        raise ClusterError(f"{what} have shape {vectors.shape}; expected (N, d)")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = int(np.count_nonzero(~(np.isfinite(length) & (length > 0))))
    if bad:
        raise ClusterError(f"{bad} of {len(vectors)} {what} have a vector that is zero or not finite")
    return vectors / length
