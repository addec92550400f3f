"""The best possible prediction of a synthetic slide's expression: what its true rates leave to chance."""

import numpy as np
from scipy.spatial import cKDTree

from past_core.synthetic.expression import DEPTH_SPREAD, THETA, log_rates
from past_core.synthetic.panel import gene_model
from past_core.synthetic.tissue import Tissue, TissueConfig, simulate_tissue
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target
from past_genex.metrics.pairs import PairMoments


def match_cells(slide: ExpressionSlide, tissue: Tissue) -> np.ndarray:
    """`(N,)` rows of the simulated tissue that the slide's usable cells are, by their places.

    Ingest may move a slide by a constant fraction of a pixel, and outlines are polygons; cells are an order
    of magnitude further apart.
    """
    places = tissue.cells[["x_um", "y_um"]].to_numpy()
    distance, row = cKDTree(places).query(slide.xy_um)
    if distance.max() > 4.0 or len(np.unique(row)) != len(row):
        message = f"{slide.name}: cells lie up to {distance.max():.1f} µm from those that were simulated"
        raise ValueError(message)
    return row


def ceiling(
    slide: ExpressionSlide, config: TissueConfig, target: Target, *, replicates: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """R of the best possible predictor; see `expectation`.

    Returns:
        `(G,)` r by gene over all of the slide's cells, and `(N,)` the cells' true types.
    """
    values, known, types = expectation(slide, config, target, replicates=replicates, seed=seed)
    r = np.full(len(slide.genes), np.nan)
    r[known] = PairMoments.of(values, slide.expression(target, slide.genes[known])).r
    return r, types


def expectation(
    slide: ExpressionSlide, config: TissueConfig, target: Target, *, replicates: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best possible prediction, the expectation of the target given the true rates.

    The expectation is the mean over replicate draws of counts and depth from the simulator's own model.

    Args:
        slide: the slide, made from
        config: this configuration.
        target: the target.
        replicates: draws; the predictor keeps 1 / replicates of the count noise.
        seed: of the draws.

    Returns:
        `(N, K)` expectations of the K genes that the simulator knows, `(G,)` bool which of the slide's genes
        these are, and `(N,)` the cells' true types.
    """
    tissue = simulate_tissue(config)
    rows = match_cells(slide, tissue)
    model = gene_model(config.cancer_type)
    known = slide.genes.isin(model.genes["id"])
    column = model.genes.set_index("id").index.get_indexer(slide.genes[known])
    share = np.exp(log_rates(tissue, model))[rows]
    stream = np.random.default_rng(seed)
    scale = slide.scale(target)
    total = np.zeros((len(rows), int(known.sum())))
    for _ in range(replicates):
        depth = config.depth * np.exp(DEPTH_SPREAD * stream.standard_normal(len(rows)))
        mean = depth[:, None] * share
        counts = stream.poisson(stream.gamma(THETA, mean / THETA))
        sums = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        values = counts[:, column] * (1.0 if scale is None else scale / sums)
        total += np.log1p(values)
    return total / replicates, known, tissue.cells["cell_type"].to_numpy(str)[rows]
