"""The paper's check of biology: do predictions cluster as the measured cells do, and into the same types?"""

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from past_genex.clusters.agreement import RARE, TypeScores, adjusted_rand, known, majority, type_scores
from past_genex.clusters.correspondence import Correspondence, cluster_means, correspond, overlap_counts
from past_genex.clusters.leiden import ClusterError, Clustering, leiden, varying
from past_genex.clusters.markers import Method, rank_markers


@dataclass(frozen=True)
class Side:
    """One side's clusters.

    Attributes:
        clustering: the clusters of the cells.
        markers: see `rank_markers`.
        constant: number of genes that are the same in every cell of this side.
    """

    clustering: Clustering
    markers: pd.DataFrame
    constant: int

    def marker_columns(self, genes: pd.Index) -> list[np.ndarray]:
        """For each cluster the columns of its markers in `genes`."""
        names = [self.markers.loc[self.markers["cluster"] == c, "gene"] for c in range(self.clustering.n)]
        return [genes.get_indexer(pd.Index(each)) for each in names]


@dataclass(frozen=True)
class ClusterComparison:
    """Clusters of measured and of predicted expression of the same N cells.

    Attributes:
        genes: `(G,)` genes that both were clustered on.
        measured: the measured side.
        predicted: the predicted side; None where only measured expression was given.
        correspondence: between them.
        reference: `(N,)` str annotations, "" where there is none; without annotations the measured clusters.
        reference_name: what the reference is.
        transferred: `(N,)` str, the label that each cell's predicted cluster takes from the measured cluster
            it corresponds to best.
        ari: adjusted Rand index by pair of groupings.
        scores: by way of labelling ("measured clusters", "predicted clusters", "retrieval"), against the
            reference. The first is what the transfer could reach at best.
        settings: everything that the result depends on.
    """

    genes: pd.Index
    measured: Side
    predicted: Side | None
    correspondence: Correspondence | None
    reference: np.ndarray
    reference_name: str
    transferred: np.ndarray | None
    ari: Mapping[str, float]
    scores: Mapping[str, TypeScores]
    settings: Mapping[str, object] = field(default_factory=dict)


def compare_clusters(
    measured: np.ndarray,
    predicted: np.ndarray | None = None,
    *,
    genes: pd.Index,
    labels: np.ndarray | pd.Series | None = None,
    labels_name: str = "cell_type",
    retrieved: np.ndarray | None = None,
    resolution: float | None = None,
    clusters: int | None = None,
    top: int = 5,
    method: Method = "wilcoxon",
    components: int = 30,
    neighbors: int = 15,
    rare: float = RARE,
    seed: int = 0,
) -> ClusterComparison:
    """Clusters both sides independently and says how they correspond.

    With `resolution`, both sides use it; with `clusters`, each side's resolution is chosen to give that
    number; with neither, the measured side uses 1 and the predicted side's is chosen to give as many clusters
    as the measured side has, so that the groupings are comparable. Annotations are never used for clustering.

    Args:
        measured: `(N, G)` measured expression on a log scale (see `Target`).
        predicted: `(N, G)` predictions for the same cells and genes, on their log scale; none is taken again.
        genes: `(G,)` ids.
        labels: `(N,)` reference annotations; NaN or "" where a cell has none.
        labels_name: what they are.
        retrieved: `(N,)` labels from `retrieve_labels`, scored too.
        resolution: of Leiden.
        clusters: number of clusters wanted.
        top: markers of a cluster.
        method: test for markers.
        components: principal components.
        neighbors: neighbours in the graph.
        rare: share below which a type is rare.
        seed: of the clusterings.

    Raises:
        ClusterError: shapes that do not fit, values that are not finite, cells without expression, too few
            genes that vary, one cluster only.
    """
    genes, measured = pd.Index(genes), np.asarray(measured)
    _check(measured, predicted, genes, labels, retrieved)
    options = {"components": components, "neighbors": neighbors, "seed": seed}
    left = _side(measured, genes, "measured expression", top, method, resolution, clusters, options)
    right = correspondence = transferred = None
    groups = left.clustering.labels.astype(str)
    ari, scores = {}, {}
    reference = groups if labels is None else known(labels)
    name = "measured clusters" if labels is None else labels_name
    of_cluster = majority(left.clustering.labels, reference, left.clustering.n)
    if labels is not None:
        ari[f"measured clusters, {name}"] = adjusted_rand(groups, reference)
        scores["measured clusters"] = type_scores(reference, of_cluster[left.clustering.labels], rare=rare)
    if predicted is not None:
        predicted = np.asarray(predicted)
        wanted = left.clustering.n if resolution is None and clusters is None else clusters
        right = _side(predicted, genes, "predicted expression", top, method, resolution, wanted, options)
        shape = left.clustering.n, right.clustering.n
        correspondence = correspond(
            cluster_means(measured, left.clustering.labels),
            cluster_means(predicted, right.clustering.labels),
            left.marker_columns(genes),
            right.marker_columns(genes),
            overlap_counts(left.clustering.labels, right.clustering.labels, shape),
        )
        best = correspondence.best
        transferred = np.where(best >= 0, of_cluster[best], "")[right.clustering.labels]
        theirs = right.clustering.labels.astype(str)
        ari["measured clusters, predicted clusters"] = adjusted_rand(groups, theirs)
        if labels is not None:
            ari[f"predicted clusters, {name}"] = adjusted_rand(theirs, reference)
        scores["predicted clusters"] = type_scores(reference, transferred, rare=rare)
    if retrieved is not None:
        scores["retrieval"] = type_scores(reference, known(retrieved), rare=rare)
    settings = {
        "resolution": resolution, "clusters": clusters, "markers": top, "method": method,
        "rare_below": rare, **options, "genes": len(genes), "cells": len(measured),
    }  # fmt: skip
    return ClusterComparison(
        genes, left, right, correspondence, reference, name, transferred, ari, scores, settings
    )


def _side(
    expression: np.ndarray, genes: pd.Index, name: str, top: int, method: Method,
    resolution: float | None, clusters: int | None, options: Mapping[str, int],
) -> Side:  # fmt: skip
    clustering = leiden(expression, resolution=resolution, clusters=clusters, side=name, **options)
    if clustering.n < 2:
        raise ClusterError(
            f"{name}: one cluster only at resolution {clustering.resolution:g} "
            f"({len(expression)} cells, {len(genes)} genes); give a higher --resolution, or --clusters"
        )
    markers = rank_markers(expression, clustering.labels, genes, top=top, method=method)
    return Side(clustering, markers, int((~varying(expression)).sum()))


def _check(
    measured: np.ndarray,
    predicted: np.ndarray | None,
    genes: pd.Index,
    labels: Sized | None,
    retrieved: Sized | None,
) -> None:
    if measured.ndim != 2 or measured.shape[1] != len(genes):
        raise ClusterError(f"measured {measured.shape} for {len(genes)} genes; expected (N, G)")
    if not len(genes):
        raise ClusterError("no gene to cluster on")
    if not genes.is_unique:
        raise ClusterError(f"gene {genes[genes.duplicated()][0]!r} appears more than once")
    if predicted is not None and np.shape(predicted) != measured.shape:
        raise ClusterError(f"predicted {np.shape(predicted)}, measured {measured.shape}; expected the same")
    for name, each in (("annotations", labels), ("retrieved labels", retrieved)):
        if each is not None and len(each) != len(measured):
            raise ClusterError(f"{len(each)} {name} for {len(measured)} cells")
    empty = int(np.count_nonzero(~np.any(measured, axis=1)))
    if empty:
        raise ClusterError(
            f"{empty} of {len(measured)} cells have no expression of the {len(genes)} genes; leave them out"
        )
