"""The protein that an antibody shows in each synthetic cell, from the true expression of its gene."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from past_core.synthetic.cohort import CELL_TYPES, SyntheticError
from past_core.synthetic.expression import log_rates
from past_core.synthetic.panel import RECEPTORS, gene_model
from past_core.synthetic.seeding import generator
from past_core.synthetic.tissue import Tissue

NEGATIVE_GLANDS = 0.2
"""Protein in the glands of a receptor-negative patient, relative to a positive one's: at most weak."""

_NOISE = 0.3
"""Standard deviation of a cell's own log odds of protein, clipped at 2.5 of them."""


@dataclass(frozen=True, kw_only=True)
class Assay:
    """How one antibody shows its protein.

    Args:
        gene: Symbol of the protein's gene.
        compartment: Where the DAB lies.
        typical: Saturation in a tumour cell of a positive patient whose states are all zero.
        slope: Log odds of saturation per standard deviation of such cells' log expression.
        peak: Optical density of DAB at saturation.
    """

    gene: str
    compartment: Literal["nucleus", "membrane"]
    typical: float
    slope: float
    peak: float


ASSAYS = {
    "er": Assay(gene="ESR1", compartment="nucleus", typical=0.42, slope=1.4, peak=1.05),
    "pr": Assay(gene="PGR", compartment="nucleus", typical=0.36, slope=1.4, peak=1.05),
    "ki67": Assay(gene="MKI67", compartment="nucleus", typical=0.06, slope=1.7, peak=1.0),
    "her2": Assay(gene="ERBB2", compartment="membrane", typical=0.6, slope=1.2, peak=1.7),
}
"""The stains that can be rendered, by name."""


def assay(stain: str) -> Assay:
    """Looks up how a stain is rendered.

    Raises:
        SyntheticError: No such stain.
    """
    if stain not in ASSAYS:
        raise SyntheticError(f"no stain {stain!r} can be rendered; expected one of {', '.join(ASSAYS)}")
    return ASSAYS[stain]


def saturation(
    log_rate: np.ndarray, *, reference: float, spread: float, typical: float, slope: float
) -> np.ndarray:
    """Hill's function of expression, x^n / (k + x^n): x = exp(log_rate − reference), n = slope / spread.

    Args:
        log_rate: Log expression.
        reference: Log expression at which the value is `typical`.
        spread: Standard deviation of log expression among positive cells.
        typical: Value at the reference, in (0, 1).
        slope: Change of the log odds of the value per `spread`.

    Returns:
        Values in (0, 1), rising with `log_rate`.
    """
    odds = np.log(typical / (1 - typical)) + slope * (log_rate - reference) / spread
    return 1 / (1 + np.exp(-odds))


def protein(tissue: Tissue, gene: str) -> np.ndarray:
    """Amount of a gene's protein in each cell, 1 at saturation, (N,) float64.

    But for a little noise of each cell's own it rises with the gene's true log rate, relative to the cells of
    a tumour that is positive for the gene: in a positive patient it spans the range from 0 to 1, and a
    receptor-negative tumour has none.

    Args:
        tissue: The slide.
        gene: Symbol of a gene of `ASSAYS`.

    Raises:
        SyntheticError: No stain shows this gene.
    """
    found = [a for a in ASSAYS.values() if a.gene == gene]
    if not found:
        known = ", ".join(a.gene for a in ASSAYS.values())
        raise SyntheticError(f"no stain shows the protein of {gene!r}; expected one of {known}")
    reference, spread = _positive_cells(tissue, gene)
    noise = np.clip(generator(tissue.config, f"protein {gene}").standard_normal(len(tissue.cells)), -2.5, 2.5)
    # Noise enters as the log odds do: it never makes a cell without expression positive.
    log_rate = _log_rate(tissue, gene) + _NOISE * noise * spread / found[0].slope
    amount = saturation(
        log_rate, reference=reference, spread=spread, typical=found[0].typical, slope=found[0].slope
    )
    if gene in RECEPTORS and not tissue.patient.positive[gene]:
        amount *= NEGATIVE_GLANDS
    return amount


def _log_rate(tissue: Tissue, gene: str) -> np.ndarray:
    symbols = gene_model(tissue.config.cancer_type).genes["symbol"].to_numpy()
    return log_rates(tissue)[:, np.flatnonzero(symbols == gene)[0]]


def _positive_cells(tissue: Tissue, gene: str) -> tuple[float, float]:
    """Log rate of a typical tumour cell of a positive patient, and its standard deviation over states."""
    states = ["state_1", "state_2", "programme"]
    cells = pd.DataFrame(np.vstack([np.zeros(3), np.eye(3)]), columns=states)
    cells["cell_type"] = pd.Categorical(["tumour"] * 4, CELL_TYPES)
    patient = dataclasses.replace(tissue.patient, positive=dict.fromkeys(tissue.patient.positive, True))
    rate = _log_rate(dataclasses.replace(tissue, cells=cells, patient=patient), gene)
    return float(rate[0]), float(np.linalg.norm(rate[1:] - rate[0]))
