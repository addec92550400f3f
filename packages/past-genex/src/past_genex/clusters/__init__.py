"""Clusters of measured and of predicted expression, and how they correspond."""

from past_genex.clusters.agreement import TypeScores, type_scores
from past_genex.clusters.comparison import ClusterComparison, compare_clusters
from past_genex.clusters.correspondence import Correspondence, correspond
from past_genex.clusters.leiden import ClusterError, Clustering, leiden
from past_genex.clusters.markers import rank_markers
from past_genex.clusters.transfer import retrieve_labels

__all__ = [
    "ClusterComparison",
    "ClusterError",
    "Clustering",
    "Correspondence",
    "TypeScores",
    "compare_clusters",
    "correspond",
    "leiden",
    "rank_markers",
    "retrieve_labels",
    "type_scores",
]
