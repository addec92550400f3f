"""A whole evaluation: settings x systems, with its files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.frozen import EncoderNotFoundError
from past_genex.data.slides import ExpressionSlide, union_genes
from past_genex.evaluation.ceilings import CEILING_GENES, mean_ceiling, slide_ceilings, spread_genes
from past_genex.evaluation.comparison import RESAMPLES
from past_genex.evaluation.outcome import Outcome, Say, StudyError, slides_table, software
from past_genex.evaluation.pictures import draw_distribution, draw_maps
from past_genex.evaluation.report import USE, gene_table, write_json
from past_genex.evaluation.report import report as build_report
from past_genex.evaluation.run import Evaluation, evaluate
from past_genex.evaluation.scores import nanmean
from past_genex.evaluation.settings import build_split, encoder_field_um
from past_genex.evaluation.subsets import marker_genes, variable_genes
from past_genex.evaluation.tables import tables
from past_genex.metrics.ceiling import CeilingError
from past_genex.systems.base import Surroundings, System
from past_genex.systems.registry import build_system

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Study:
    """What is evaluated.

    Attributes:
        slides: the slides.
        systems: systems by name.
        encoders: encoders by name; the widest field of those that are here is the buffer of "intra".
        settings: see `build_split`.
        surroundings: target, cache, device.
        genes: only these; None for all.
        maps: number of genes for Spearman and Moran's I.
        ceiling: number of genes for the noise ceiling, see `spread_genes`; None for all, 0 for none.
        resamples: of the bootstrap.
    """

    slides: Sequence[ExpressionSlide]
    systems: Sequence[str]
    encoders: Sequence[str]
    settings: Sequence[str]
    surroundings: Surroundings
    genes: pd.Index | None = None
    maps: int = 24
    ceiling: int | None = CEILING_GENES
    resamples: int = RESAMPLES


def run_study(study: Study, folder: Path, *, report: Say = lambda text: None) -> Outcome:
    """Evaluates every system under every setting and writes `results.json`, tables and pictures.

    Args:
        study: what.
        folder: where; it exists and is empty.
        report: called with what is going on.

    Raises:
        StudyError: no setting, or no system, can be evaluated on these slides.
    """
    rim = _widest_field([*study.encoders, *(name.partition(":")[2] for name in study.systems)])
    built: dict[str, System] = {}

    def make(name: str) -> System:
        if name not in built:
            built[name] = build_system(name, study.surroundings)
        return built[name]

    chosen = map_genes(study.slides, study.maps, study.genes)
    contents: dict[str, Any] = {}
    shown: list[Table] = []
    notes: list[str] = []
    ceilings = _ceilings(study, report, notes)
    for setting in study.settings:
        try:
            split = build_split(setting, study.slides, rim_um=rim)
        except PastError as error:
            if len(study.settings) == 1:
                raise
            notes.append(f"setting {setting} is left out: {error}")
            continue
        notes += [f"setting {setting}: {what} excluded: {why}" for what, why in split.excluded.items()]
        evaluation = evaluate(
            split,
            [(name, partial(make, name)) for name in study.systems],
            study.surroundings.target,
            genes=study.genes,
            maps=chosen,
            progress=partial(_report_fold, report, setting),
        )
        notes += [f"setting {setting}: {name} is left out: {why}" for name, why in evaluation.skipped.items()]
        if not evaluation.scores:
            notes.append(f"setting {setting} has no system that can be evaluated")
            continue
        report(f"{setting}: intervals")
        genes = evaluation.scores[0].genes
        ceiling = None if ceilings is None else mean_ceiling(ceilings, split.slides, genes)
        content = build_report(
            evaluation, ceiling=ceiling, resamples=study.resamples, seed=study.surroundings.seed
        )
        contents[setting] = content
        shown += tables(content)
        _write(evaluation, ceiling, folder, setting)
        draw_distribution(evaluation, folder / f"r-{setting}.png", ceiling=ceiling)
        draw_maps(evaluation, built, chosen, folder / f"maps-{setting}.png")
    if not contents:
        raise StudyError("nothing could be evaluated: " + "; ".join(notes))
    write_json(
        {
            "use": USE,
            "target": study.surroundings.target.name,
            "slides": slides_table(study.slides),
            "rim_um": rim,
            "seed": study.surroundings.seed,
            "spearman_and_moran_genes": list(chosen),
            "noise_ceiling_genes": [] if ceilings is None else list(ceilings.columns),
            "resamples": study.resamples,
            "systems": list(study.systems),
            "notes": notes,
            "settings": contents,
            "software": software(),
        },
        folder / "results.json",
    )
    return Outcome(shown, list(dict.fromkeys(notes)), sorted(path.name for path in folder.iterdir()))


def _report_fold(report: Say, setting: str, system: str, done: int, of: int) -> None:
    report(f"{setting}: {system}, fold {done} of {of}")


def map_genes(slides: Sequence[ExpressionSlide], number_of: int, only: pd.Index | None) -> pd.Index:
    """Genes for Spearman and Moran's I: markers and the most variable in turn, then any."""
    every = tuple(slides)
    in_turn = zip_longest(marker_genes(every), variable_genes(every))
    ranked = [*(gene for pair in in_turn for gene in pair if gene is not None), *union_genes(slides)]
    wanted = dict.fromkeys(gene for gene in ranked if only is None or gene in only)
    return pd.Index(list(wanted)[:number_of], dtype=object)


def _ceilings(study: Study, report: Say, notes: list[str]) -> pd.DataFrame | None:
    """See `slide_ceilings`; None where none is wanted, or counts allow none."""
    genes = spread_genes(study.slides, study.ceiling, study.genes)
    if not len(genes):
        return None
    try:
        return slide_ceilings(
            study.slides, study.surroundings.target, genes, progress=lambda s: report(f"noise ceiling: {s}")
        )
    except CeilingError as error:
        notes.append(f"no noise ceiling: {error}")
        return None


def _widest_field(encoders: Sequence[str]) -> float:
    fields = []
    for name in dict.fromkeys(filter(None, encoders)):
        try:
            fields.append(encoder_field_um(name))
        except EncoderNotFoundError:
            continue  # it is reported where its system is made
    # ST-Net's published field, also the least that keeps spots apart.
    return max(fields, default=112.0)


def _write(evaluation: Evaluation, ceiling: np.ndarray | None, folder: Path, setting: str) -> None:
    gene_table(evaluation, ceiling).to_csv(folder / f"genes-{setting}.csv", float_format="%.5f")
    rows = []
    for scores in evaluation.scores:
        slides, r = scores.slide_r()
        rows.append(slides.assign(system=scores.system, r=nanmean(r.T)))
    pd.concat(rows).to_csv(folder / f"slides-{setting}.csv", index=False, float_format="%.5f")
