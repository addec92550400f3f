"""The noise ceiling of a study's slides: how high r can be at all, for some or all genes."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from past_genex.data.slides import ExpressionSlide, union_genes
from past_genex.data.targets import Target
from past_genex.evaluation.scores import nanmean
from past_genex.metrics.ceiling import noise_ceiling

CEILING_GENES = 64
"""Genes with a ceiling by default: one costs 10 to 35 ms a slide, and the standard error of a mean of 64 is
about 0.02."""


def spread_genes(
    slides: Sequence[ExpressionSlide], number_of: int | None, only: pd.Index | None = None
) -> pd.Index:
    """Genes from the rarest to the most frequent at even steps, so that their mean stands for all.

    Args:
        slides: the slides.
        number_of: how many; None for all.
        only: to choose among.
    """
    union = union_genes(slides)
    union = union if only is None else union[union.isin(only)]
    if number_of is None or number_of >= len(union):
        return union
    share = np.full((len(slides), len(union)), np.nan)
    for row, slide in enumerate(slides):
        column = union.get_indexer(slide.genes)
        detected = np.asarray((slide.counts > 0).sum(axis=0)).ravel() / slide.n_cells
        share[row, column[column >= 0]] = detected[column >= 0]
    order = np.argsort(nanmean(share), kind="stable")
    # The middles of equal stretches of the ranking.
    taken = order[((np.arange(number_of) + 0.5) * len(order) / max(number_of, 1)).astype(int)]
    return union[np.sort(taken)]


def slide_ceilings(
    slides: Sequence[ExpressionSlide],
    target: Target,
    genes: pd.Index,
    *,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """The noise ceiling of every slide, see `noise_ceiling`.

    Args:
        slides: S slides.
        target: the scale that is predicted.
        genes: G gene ids.
        progress: called with each slide's name.

    Returns:
        `(S, G)` by slide's name and gene; NaN where the slide does not measure a gene, or has too few counts.

    Raises:
        CeilingError: counts that are not whole numbers.
    """
    table = pd.DataFrame(np.nan, index=[slide.name for slide in slides], columns=genes)
    for slide in slides:
        if progress is not None:
            progress(slide.name)
        here = genes[genes.isin(slide.genes)]
        counts = slide.counts[:, slide.genes.get_indexer(here)]
        table.loc[slide.name, here] = noise_ceiling(counts, slide.totals, scale=slide.scale(target)).r
    return table


def mean_ceiling(table: pd.DataFrame, slides: Sequence[ExpressionSlide], genes: pd.Index) -> np.ndarray:
    """`(G,)` mean over these slides of `slide_ceilings`; NaN for a gene without one."""
    return nanmean(table.loc[[slide.name for slide in slides]].reindex(columns=genes).to_numpy())
