"""Retrieval between the two sides of the joint space: recall, median rank, and chance."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from past_core.data.groups import kd_groups

NEIGHBOURHOOD_CELLS = 64
"""Cells of a validation neighbourhood: the gallery in which stain and region cannot help."""


class SlideEmbeddings(NamedTuple):
    """The joint embeddings of one validation slide, rows in table order."""

    name: str
    slide: int
    """Index of the slide among the DataModule's validation slides."""
    cells: Tensor
    """`(N,)` row of each cell in its slide's table."""
    image: Tensor
    """`(N, 256)` L2-normalised."""
    cell: Tensor
    """`(N, 256)` L2-normalised."""


class Retrieval(NamedTuple):
    """Retrieval of the true partner in one gallery, one direction."""

    recall: dict[int, float]
    """Share of queries whose partner is among the first k, by k."""
    median_rank: float
    """Median rank of the partner, 1 = first."""
    chance: dict[int, float]
    """Expected recall of a random order: k / gallery size, at most 1."""


def partner_ranks(queries: torch.Tensor, gallery: torch.Tensor, *, chunk: int = 2048) -> torch.Tensor:
    """Rank of each query's partner (the gallery row of the same index) by cosine similarity.

    Ties count half, so that a collapsed (constant) embedding ranks at chance rather than first.

    Args:
        queries: `(N, d)` L2-normalised.
        gallery: `(N, d)` L2-normalised.
        chunk: queries compared at a time.

    Returns:
        `(N,)` float64 ranks, 1 = first.
    """
    ranks = []
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        similarity = queries[rows] @ gallery.T
        index = torch.arange(len(similarity), device=similarity.device)
        own = similarity[index, index + start].unsqueeze(1)
        above = (similarity > own).sum(dim=1)
        tied = (similarity == own).sum(dim=1) - 1
        ranks.append(1 + above.double() + tied.double() / 2)
    return torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.float64)


def summarise_ranks(
    ranks: torch.Tensor, gallery_sizes: torch.Tensor | int, *, ks: Sequence[int] = (1, 5, 10)
) -> Retrieval:
    """Recall at each k, the median rank, and what chance gives in galleries of these sizes."""
    sizes = torch.as_tensor(gallery_sizes, dtype=torch.float64).expand(len(ranks))
    return Retrieval(
        recall={k: float((ranks <= k).double().mean()) for k in ks},
        median_rank=float(ranks.median()),
        chance={k: float((k / sizes).clamp(max=1).mean()) for k in ks},
    )


def neighbourhood_ranks(
    queries: torch.Tensor, gallery: torch.Tensor, groups: Sequence[np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks of the partner among the cells of its own spatial group only.

    Returns:
        `(M,)` ranks and `(M,)` gallery sizes over all members of all groups.
    """
    ranks = [partner_ranks(queries[g], gallery[g]) for g in map(torch.as_tensor, groups)]
    sizes = [torch.full((len(g),), len(g), dtype=torch.float64) for g in groups]
    return torch.cat(ranks), torch.cat(sizes)


def slide_retrieval(slide: SlideEmbeddings, centroids: np.ndarray) -> dict[str, float]:
    """Retrieval figures of one slide: gallery of all its cells, and within neighbourhoods of 64 cells.

    Args:
        slide: the joint embeddings of N cells.
        centroids: `(N, 2)` their places.

    Returns:
        recall@{1,5,10}, chance, enrichment (recall over chance) and median rank, by direction.
    """
    groups = kd_groups(centroids, NEIGHBOURHOOD_CELLS)
    figures: dict[str, float] = {}
    for direction, queries, gallery in (
        ("image_to_cell", slide.image, slide.cell),
        ("cell_to_image", slide.cell, slide.image),
    ):
        whole = summarise_ranks(partner_ranks(queries, gallery), len(gallery))
        near = summarise_ranks(*neighbourhood_ranks(queries, gallery, groups))
        for k, recall in whole.recall.items():
            figures[f"recall@{k}/{direction}"] = recall
            figures[f"enrichment@{k}/{direction}"] = recall / whole.chance[k]
        for k, recall in near.recall.items():
            figures[f"neighbourhood_recall@{k}/{direction}"] = recall
        figures[f"median_rank/{direction}"] = whole.median_rank
    figures |= {f"chance@{k}": value for k, value in whole.chance.items()}
    figures |= {f"neighbourhood_chance@{k}": value for k, value in near.chance.items()}
    figures["gallery"] = float(len(slide.cells))
    return figures
