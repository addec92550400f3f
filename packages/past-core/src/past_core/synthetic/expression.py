"""Counts of a synthetic slide: negative binomial about rates that follow type, programme and state."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from past_core.synthetic.divergence import diverge
from past_core.synthetic.panel import RECEPTORS, GeneModel, gene_model
from past_core.synthetic.seeding import generator
from past_core.synthetic.tissue import Tissue

THETA = 2.0
"""Size of the negative binomial: variance = mean + mean² / THETA."""

DEPTH_SPREAD = 0.35
"""Standard deviation of a cell's log depth. Depth depends on nothing that can be seen."""

CONTROLS = {
    "Negative Control Probe": ("NegControlProbe_{:05d}", 20, 0.004),
    "Negative Control Codeword": ("NegControlCodeword_{:04d}", 41, 0.0008),
    "Unassigned Codeword": ("UnassignedCodeword_{:04d}", 60, 0.0004),
}
"""Name, number and mean counts a cell of each kind of control feature."""

_RECEPTOR_POSITIVE, _RECEPTOR_NEGATIVE = 1.2, -2.5


@dataclass(frozen=True)
class Expression:
    """Measured counts.

    Args:
        counts: (N, F) int32, rows as in `Tissue.cells`, controls included.
        features: F rows: `id` (Ensembl id or the control's name), `name` (symbol), `feature_type` (as in 10x
            matrices).
    """

    counts: csr_matrix
    features: pd.DataFrame


def log_rates(tissue: Tissue, model: GeneModel | None = None) -> np.ndarray:
    """The truth behind the counts: log of each gene's share of a cell's expected counts, (N, G) float64.

    Renderings that show a protein (DAB IHC) take its amount per nucleus from here.

    Args:
        tissue: The slide.
        model: Genes to compute; by default the slide's own panel.
    """
    model = diverge(gene_model(tissue.config.cancer_type) if model is None else model, tissue.config)
    cells = tissue.cells
    latent = cells[["state_1", "state_2", "programme"]].to_numpy()
    log = model.base + model.type_effect[cells["cell_type"].cat.codes.to_numpy()] + latent @ model.loadings
    tumour = (cells["cell_type"] == "tumour").to_numpy()
    for symbol in RECEPTORS:
        status = _RECEPTOR_POSITIVE if tissue.patient.positive[symbol] else _RECEPTOR_NEGATIVE
        log[np.ix_(tumour, np.flatnonzero(model.genes["symbol"] == symbol))] += status
    log -= log.max(axis=1, keepdims=True)
    return log - np.log(np.exp(log).sum(axis=1, keepdims=True))


def simulate_expression(tissue: Tissue) -> Expression:
    """Draws the counts of all genes of the slide's panel and of the control features."""
    stream = generator(tissue.config, "counts")
    model = gene_model(tissue.config.cancer_type)
    depth = tissue.config.depth * np.exp(DEPTH_SPREAD * stream.standard_normal(len(tissue.cells)))
    mean = depth[:, None] * np.exp(log_rates(tissue, model))
    counts = stream.poisson(stream.gamma(THETA, mean / THETA))

    blocks, rows = [counts], [model.genes[["id", "symbol"]].set_axis(["id", "name"], axis=1)]
    rows[0] = rows[0].assign(feature_type="Gene Expression")
    for kind, (pattern, number, rate) in CONTROLS.items():
        blocks.append(stream.poisson(rate, (len(tissue.cells), number)))
        names = [pattern.format(i + 1) for i in range(number)]
        rows.append(pd.DataFrame({"id": names, "name": names, "feature_type": kind}))
    matrix = csr_matrix(np.concatenate(blocks, axis=1).astype(np.int32))
    return Expression(matrix, pd.concat(rows, ignore_index=True))
