"""Fits a probe on all given slides, with the held-out r of every gene as its trust."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_genex.data.slides import ExpressionSlide, union_genes
from past_genex.evaluation.comparison import gene_intervals
from past_genex.evaluation.run import evaluate
from past_genex.evaluation.settings import build_split
from past_genex.probe.files import Probe
from past_genex.probe.trust import Trust
from past_genex.systems.base import Surroundings
from past_genex.systems.features import EncoderFeatures
from past_genex.systems.ridge import RidgeProbe

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder

logger = logging.getLogger(__name__)


class FittingError(PastError, ValueError):
    """Slides or genes that no probe can be fitted on."""


def fit_probe(
    slides: Sequence[ExpressionSlide],
    encoder: "FrozenEncoder",
    surroundings: Surroundings,
    *,
    genes: pd.Index | None = None,
    setting: str | None = None,
) -> Probe:
    """A probe of all cells of the slides.

    The trust table comes from the same regression under a split: patients held out in turn or, with a single
    patient, regions of its slides, which says less: the table's setting says which. Both passes use the same
    statistics, so that slides are embedded and read once.

    Args:
        slides: the training slides.
        encoder: the encoder; its features, not the joint space, are the paper's.
        surroundings: target, cache, device.
        genes: only these; all that any slide measures by default.
        setting: see `build_split`; by default "patients", and "intra" with a single patient.

    Raises:
        FittingError: no slide, or none of the genes is measured.
        RidgeError, StatisticsError, SplitError: see there.
    """
    if not slides:
        raise FittingError("no slide to fit a probe on; give at least one slide store")
    patients = list(dict.fromkeys(slide.patient for slide in slides))
    setting = setting or ("patients" if len(patients) > 1 else "intra")
    union = union_genes(slides)
    union = union if genes is None else union[union.isin(genes)]
    if not len(union):
        raise FittingError(
            f"none of the {0 if genes is None else len(genes)} asked genes is measured on any of "
            f"{len(slides)} slides; genes are named by their ids there, such as {slides[0].genes[0]}"
        )
    split = build_split(setting, slides, rim_um=encoder.field_um)
    system = RidgeProbe(f"ridge:{encoder.name}", EncoderFeatures(encoder, surroundings), surroundings)
    evaluation = evaluate(split, [system], surroundings.target, genes=union)
    if evaluation.skipped:
        raise FittingError(f"nothing could be held out: {evaluation.skipped[system.name]}")
    scores = evaluation.scores[0].subset(union)
    low, high, over = gene_intervals(scores)
    unsure = len(scores.units) < 2
    measured = scores.units.assign(row=np.arange(len(scores.units))).groupby("patient")["row"]
    tested = np.stack([(scores.moments.n[rows] > 0).any(axis=0) for rows in measured.indices.values()])
    what = "regions of the only patient" if len(patients) == 1 else f"{setting}: each patient in turn"
    trust = Trust(
        scores.pooled(),
        np.full(len(union), np.nan) if unsure else low,
        np.full(len(union), np.nan) if unsure else high,
        tested.sum(axis=0),
        f"{what if setting in ('patients', 'intra') else setting}; intervals over {over}",
    )
    everything = {number: regions.everything() for number, regions in enumerate(split.regions)}
    model = system.fit_units(system.units(split, everything), union)
    symbols = pd.concat([slide.symbols for slide in slides])
    symbols = symbols[~symbols.index.duplicated()].reindex(model.genes).astype(str)
    return Probe(
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        space=encoder.space,
        genes=model.genes,
        symbols=symbols.to_numpy(object),
        target=surroundings.target,
        weight=model.weight,
        bias=model.bias,
        alpha=model.alpha,
        trust_table=trust,
        slides=tuple(slide.name for slide in slides),
        patients=tuple(patients),
        cells=sum(slide.n_cells for slide in slides),
        demo=encoder.demo,
        notes={"trainer": "closed form", "cancer_types": sorted({slide.cancer_type for slide in slides})},
    )
