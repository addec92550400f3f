"""The subsets of genes that a report is about, with how each was chosen."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_genex.metrics.subsets import SubsetError, highly_variable, markers

if TYPE_CHECKING:
    from past_genex.data.slides import ExpressionSlide
    from past_genex.data.splits import Split

VARIABLE = 50
"""Highly variable genes, as many as HEST-Bench takes."""


@dataclass(frozen=True)
class Subset:
    """Genes, and how they were chosen.

    Attributes:
        genes: their ids.
        chosen: in words, for results.
    """

    genes: pd.Index
    chosen: str


def default_subsets(split: "Split", genes: pd.Index) -> dict[str, Subset]:
    """Subsets "all", "markers" and "hvg"; one without any of the genes is left out.

    Markers come from a fixed list. Highly variable genes are chosen by `highly_variable` on slides that train
    in every fold and are never tested. Under most splits there is none, for each slide has its turn: then on
    all slides that train in some fold. What is predicted does not depend on it, but which genes the mean is
    over then does depend on tested cells; the subset says which it was.

    Args:
        split: the split.
        genes: the genes that were scored.
    """
    subsets = {"all": Subset(genes, "every gene that was scored")}
    found = marker_genes(split.slides)
    if genes.isin(found).any():
        subsets["markers"] = Subset(
            genes[genes.isin(found)],
            f"{len(found)} of the canonical markers of cell types are on the slides; no counts are looked at",
        )
    numbers, where = _training(split)
    variable = variable_genes([split.slides[number] for number in numbers])
    if genes.isin(variable).any():
        subsets["hvg"] = Subset(
            genes[genes.isin(variable)],
            f"{len(variable)} genes of the largest variance of Pearson residuals of counts (Lause, Berens & "
            f"Kobak 2021), {where}",
        )
    return subsets


def marker_genes(slides: "list[ExpressionSlide] | tuple[ExpressionSlide, ...]") -> pd.Index:
    """Canonical markers that a slide measures; none on a panel without them."""
    try:
        return markers(slides)
    except SubsetError:
        return pd.Index([], dtype=object)


def variable_genes(slides: "list[ExpressionSlide] | tuple[ExpressionSlide, ...]") -> pd.Index:
    """The `VARIABLE` most variable genes, or all with a count where there are fewer."""
    counted: set[str] = set()
    for slide in slides:
        counted.update(slide.genes[np.asarray(slide.counts.sum(axis=0)).ravel() > 0])
    return highly_variable(slides, n=min(VARIABLE, len(counted)))


def _training(split: "Split") -> tuple[list[int], str]:
    tested = {number for fold in split.folds for number in fold.test}
    always = set.intersection(*(set(fold.train) for fold in split.folds)) - tested
    if always:
        return sorted(always), f"on the {len(always)} slides that train in every fold and are never tested"
    some = {number for fold in split.folds for number in fold.train}
    return sorted(some), (
        f"on the {len(some)} slides that train in some fold, of which {len(some & tested)} are also tested: "
        "the choice of genes, not their prediction, has seen these counts"
    )
