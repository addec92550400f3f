"""RNA, copy number and mutations of a patient's tumour, and the groups of their genes.

They are of another piece of the tumour than the slides: its mixture of cells is drawn apart from theirs, so
that the RNA says nothing about what the image shows.
"""

from functools import cache

import numpy as np
import pandas as pd

from past_core.synthetic.cohort import CELL_TYPES
from past_core.synthetic.panel import _union_model, all_genes
from past_core.synthetic.seeding import generator
from past_core.synthetic.survival_cohort.people import Person

GROUPS = {
    "Tumour": ("tumour", "epithelium", "epithelial"),
    "Stroma": ("fibroblast", "endothelial"),
    "Lymphoid": ("t_cell", "b_cell", "plasma", "immune"),
    "Myeloid": ("macrophage", "mast"),
    "Cell states": ("cycle", "hypoxia", "interferon"),
    "General": ("general", "breast", "colorectal", "lung", "ovarian"),
}
"""The six groups of genes, by the panel's own."""

LATENT_GROUPS = ("Myeloid", "Cell states")
"""Groups whose RNA the hazard's latent moves."""

READS = 200_000
"""Counts of a bulk sample over all genes."""

_MIXTURE = dict(zip(CELL_TYPES, (0.30, 0.10, 0.25, 0.06, 0.09, 0.05, 0.10, 0.03, 0.02), strict=True))
_MIXTURE_SPREAD, _GENE_SPREAD = 0.35, 0.45
_LATENT_LOADING = (0.55, 0.15)
_COPY_RNA = 0.12
_SEGMENT = 20
_COPY_GENES, _MUTATED_GENES = 180, 60


def gene_groups() -> dict[str, list[str]]:
    """Symbols of each group, sorted."""
    genes = all_genes()
    return {name: sorted(genes.loc[genes["group"].isin(kinds), "symbol"]) for name, kinds in GROUPS.items()}


@cache
def _constants() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What is the same for every patient, from a seed of its own.

    Returns:
        loadings `(G,)` of the latent, genes with a copy number, genes that mutate, and these' log odds.
    """
    genes = all_genes()
    stream = np.random.default_rng(71_206)
    moved = [kind for name in LATENT_GROUPS for kind in GROUPS[name]]
    loadings = np.clip(stream.normal(*_LATENT_LOADING, len(genes)), 0.2, 0.9) * genes["group"].isin(moved)
    copies = np.sort(stream.choice(len(genes), _COPY_GENES, replace=False))
    mutated = np.sort(stream.choice(len(genes), _MUTATED_GENES, replace=False))
    return loadings.to_numpy(np.float64), copies, mutated, stream.normal(-2.2, 0.7, _MUTATED_GENES)


def draw_molecules(person: Person) -> pd.Series:
    """One row of the table.

    Returns:
        `SYMBOL_rnaseq`: log2(1 + counts per million) of 379 genes. `SYMBOL_cnv`: -2..2 in segments of
        neighbouring genes. `SYMBOL_mut`: 0 or 1. Copy number moves its gene's RNA a little; mutations mean
        nothing.
    """
    genes, model = all_genes(), _union_model()
    loadings, copies, mutated, odds = _constants()
    stream = generator(person, "molecules")
    n = len(genes)

    mixture = np.array([_MIXTURE[name] for name in CELL_TYPES])
    mixture = mixture * np.exp(_MIXTURE_SPREAD * stream.standard_normal(len(mixture)))
    log = model.base + np.log((mixture / mixture.sum()) @ np.exp(model.type_effect))
    segments = stream.normal(0, 0.8, -(-n // _SEGMENT))
    copy_number = np.clip(np.rint(np.repeat(segments, _SEGMENT)[:n]), -2, 2)
    log += _GENE_SPREAD * stream.standard_normal(n) + loadings * person.gene_latent + _COPY_RNA * copy_number
    share = np.exp(log)
    counts = stream.poisson(READS * share / share.sum())
    rna = np.log2(1 + counts * (1e6 / max(counts.sum(), 1)))
    mutations = stream.random(_MUTATED_GENES) < 1 / (1 + np.exp(-odds))

    symbols = genes["symbol"]
    return pd.Series(
        dict(zip(symbols + "_rnaseq", rna.round(4), strict=True))
        | dict(zip(symbols.iloc[copies] + "_cnv", copy_number[copies].astype(int), strict=True))
        | dict(zip(symbols.iloc[mutated] + "_mut", mutations.astype(int), strict=True))
    )
