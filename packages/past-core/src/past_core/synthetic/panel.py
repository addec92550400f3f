"""The genes of the synthetic panels, with their true Ensembl ids, and what drives each.

`panel.tsv` lists 380 human genes as published panels of this kind choose them: `id`, `symbol`, and `group`,
what the gene marks in the simulator. Each cancer type measures 300 of them, most of them shared.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from past_core.synthetic.cohort import CANCER_TYPES, CELL_TYPES

PANEL_SIZE = 300

RECEPTORS = ("ESR1", "PGR", "AR", "ERBB2")
"""Genes whose expression in the tumour follows the patient's receptor status."""

ALWAYS = (*RECEPTORS, "FOXA1", "GATA3")
"""Genes of one tissue that every panel measures."""

# Log fold change of a group's genes in each type that expresses it, over all other types.
GROUP_EFFECTS: dict[str, dict[str, float]] = {
    "epithelium": {"tumour": 2.0, "epithelial": 2.2},
    "epithelial": {"epithelial": 2.3, "tumour": 0.4},
    "tumour": {"tumour": 1.8, "epithelial": 0.5},
    "fibroblast": {"fibroblast": 2.4, "endothelial": 0.3},
    "endothelial": {"endothelial": 2.6},
    "immune": {"t_cell": 2.2, "b_cell": 2.2, "macrophage": 2.0, "plasma": 1.2, "mast": 1.6},
    "t_cell": {"t_cell": 2.5},
    "b_cell": {"b_cell": 2.8, "plasma": 0.4},
    "macrophage": {"macrophage": 2.5, "mast": 0.3},
    "plasma": {"plasma": 3.0, "b_cell": 0.6},
    "mast": {"mast": 3.4},
    **{tissue: {"tumour": 1.8, "epithelial": 1.6} for tissue in CANCER_TYPES},
}

# Mean loading of a group's genes on the first state, the second state and the spatial programme.
GROUP_LOADINGS: dict[str, tuple[float, float, float]] = {
    "cycle": (0.9, 0.0, 0.0),
    "hypoxia": (0.0, 0.9, 0.0),
    "interferon": (0.0, 0.0, 0.9),
}

LOADING_SPREAD = (0.42, 0.42, 0.30)
"""Standard deviation of all genes' loadings on the first state, the second state and the programme."""


@dataclass(frozen=True)
class GeneModel:
    """How the genes of one panel depend on type, programme and state; the same for every patient.

    Args:
        genes: id, symbol, group of the panel's genes, in the panel's order.
        base: (G,) log abundance.
        type_effect: (n_types, G) log fold change in each of `CELL_TYPES`.
        loadings: (3, G) log fold change per unit of `state_1`, `state_2`, `programme`.
    """

    genes: pd.DataFrame
    base: np.ndarray
    type_effect: np.ndarray
    loadings: np.ndarray


@cache
def _all_genes() -> pd.DataFrame:
    with files("past_core.synthetic").joinpath("panel.tsv").open(encoding="utf-8") as handle:
        return pd.read_csv(handle, sep="\t", dtype=str, keep_default_na=False)


def all_genes() -> pd.DataFrame:
    """The union of all panels: id, symbol, group."""
    return _all_genes().copy()


def panel(cancer_type: str) -> pd.DataFrame:
    """The 300 genes of a cancer type: markers, states, its own tissue's genes, and some others."""
    genes = _all_genes()
    tissue = genes["group"].isin(CANCER_TYPES)
    own = (genes["group"] == cancer_type) | genes["symbol"].isin(ALWAYS)
    fixed = (~tissue & (genes["group"] != "general")) | own
    rest = np.flatnonzero(~fixed)
    order = list(CANCER_TYPES).index(cancer_type)
    # Each type starts elsewhere in the list of the others, so that panels differ there too.
    start = order * len(rest) // len(CANCER_TYPES)
    chosen = np.roll(rest, -start)[: PANEL_SIZE - int(fixed.sum())]
    rows = np.sort(np.concatenate([np.flatnonzero(fixed), chosen]))
    return genes.iloc[rows].reset_index(drop=True)


@cache
def _union_model() -> GeneModel:
    """Parameters of all genes, drawn once from a seed of their own: no patient or configuration enters."""
    genes = _all_genes()
    stream = np.random.default_rng(20_310)
    n = len(genes)
    base = stream.normal(0, 1.0, n)
    effect = stream.normal(0, 0.25, (len(CELL_TYPES), n))
    gain = np.clip(stream.normal(1, 0.2, n), 0.6, 1.4)
    for group, types in GROUP_EFFECTS.items():
        rows = np.flatnonzero(genes["group"] == group)
        for name, change in types.items():
            effect[CELL_TYPES.index(name), rows] += change * gain[rows]
    loadings = stream.standard_normal((3, n)) * np.array(LOADING_SPREAD)[:, None]
    for group, means in GROUP_LOADINGS.items():
        rows = np.flatnonzero(genes["group"] == group)
        loadings[:, rows] = 0.5 * loadings[:, rows] + np.array(means)[:, None]
    return GeneModel(genes, base, effect, loadings)


def gene_model(cancer_type: str) -> GeneModel:
    """The parameters of one cancer type's panel."""
    model = _union_model()
    genes = panel(cancer_type)
    rows = pd.Index(model.genes["id"]).get_indexer(genes["id"])
    return GeneModel(genes, model.base[rows], model.type_effect[:, rows], model.loadings[:, rows])
