"""How the genes of one cancer type, and of one patient, depart from the programme that all share.

Without divergence every patient's genes follow cell type and state in the same way, so whatever was learned
on any patients serves any other. In real tissue it does not: the same look goes with other genes in another
organ, and to a lesser degree in another patient of the same organ.
"""

import dataclasses
import zlib

import numpy as np
import pandas as pd

from past_core.synthetic.cohort import CELL_TYPES, TissueConfig
from past_core.synthetic.panel import GeneModel, all_genes
from past_core.synthetic.seeding import generator

TYPE_EFFECT_SPREAD, LOADING_SPREAD = 0.55, 0.45
"""Standard deviation, at divergence 1, of a cancer type's own changes in log fold changes and loadings."""

PATIENT_SHARE = 0.6
"""A patient's own changes relative to the cancer type's."""


def diverge(model: GeneModel, config: TissueConfig) -> GeneModel:
    """The parameters of one patient's genes: the shared ones with cancer type's and patient's own changes.

    Args:
        model: The shared parameters of any genes of the panels.
        config: Names cancer type and patient, and how far they depart.
    """
    if not config.divergence:
        return model
    ids = pd.Index(all_genes()["id"])
    rows = ids.get_indexer(model.genes["id"])
    kind = np.random.default_rng([zlib.crc32(config.cancer_type.encode()), config.seed])
    changes = [(1.0, kind), (PATIENT_SHARE, generator(config, "divergence"))]
    type_effect, loadings = model.type_effect.copy(), model.loadings.copy()
    for share, stream in changes:
        # Drawn for the genes of all panels: a gene's change does not depend on which others are asked for.
        effect = stream.normal(0, TYPE_EFFECT_SPREAD, (len(CELL_TYPES), len(ids)))
        loading = stream.normal(0, LOADING_SPREAD, (3, len(ids)))
        type_effect += config.divergence * share * effect[:, rows]
        loadings += config.divergence * share * loading[:, rows]
    return dataclasses.replace(model, type_effect=type_effect, loadings=loadings)
