"""A whole evaluation: settings x systems, with its files."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.frozen import EncoderNotFoundError
from past_genex.data.slides import ExpressionSlide, union_genes
from past_genex.evaluation.hest import HestProtocolError, HestResult, hest_genes, hest_protocol
from past_genex.evaluation.maps import MapCollector
from past_genex.evaluation.report import MARKERS, USE, digits, gene_table, tables, write_json
from past_genex.evaluation.report import report as build_report
from past_genex.evaluation.run import Evaluation, evaluate
from past_genex.evaluation.settings import build_split, encoder_field_um
from past_genex.systems.base import Surroundings, System
from past_genex.systems.features import EncoderFeatures
from past_genex.systems.registry import build_system

if TYPE_CHECKING:
    from rich.table import Table


Say = Callable[[str], None]
DRAWN = 4
"""Genes of the picture of maps."""


class StudyError(PastError, ValueError):
    """Nothing of what was asked can be evaluated."""


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
    """

    slides: Sequence[ExpressionSlide]
    systems: Sequence[str]
    encoders: Sequence[str]
    settings: Sequence[str]
    surroundings: Surroundings
    genes: pd.Index | None = None
    maps: int = 24


@dataclass(frozen=True)
class Outcome:
    """What is shown of an evaluation: tables, notes on what was left out, and the files' names."""

    tables: "list[Table]"
    notes: list[str]
    files: list[str]


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
            [(name, lambda name=name: make(name)) for name in study.systems],
            study.surroundings.target,
            genes=study.genes,
            maps=chosen,
            progress=lambda system, done, of, s=setting: report(f"{s}: {system}, fold {done} of {of}"),
        )
        notes += [f"setting {setting}: {name} is left out: {why}" for name, why in evaluation.skipped.items()]
        if not evaluation.scores:
            notes.append(f"setting {setting} has no system that can be evaluated")
            continue
        report(f"{setting}: intervals")
        content = build_report(evaluation, seed=study.surroundings.seed)
        contents[setting] = content
        shown += tables(content)
        _write(evaluation, folder, setting)
        _pictures(evaluation, built, chosen, folder, setting)
    if not contents:
        raise StudyError("nothing could be evaluated: " + "; ".join(notes))
    write_json(
        {
            "use": USE,
            "target": study.surroundings.target.name,
            "slides": _slides(study.slides),
            "rim_um": rim,
            "seed": study.surroundings.seed,
            "spearman_and_moran_genes": list(chosen),
            "systems": list(study.systems),
            "notes": notes,
            "settings": contents,
            "software": _software(),
        },
        folder / "results.json",
    )
    return Outcome(shown, list(dict.fromkeys(notes)), sorted(path.name for path in folder.iterdir()))


def map_genes(slides: Sequence[ExpressionSlide], number_of: int, only: pd.Index | None) -> pd.Index:
    """Genes for Spearman and Moran's I: markers first, then the most variable, then any."""
    union = union_genes(slides)
    symbols = pd.concat([slide.symbols for slide in slides])
    symbols = symbols[~symbols.index.duplicated()].astype(str)
    try:
        variable = list(hest_genes(slides))
    except HestProtocolError:
        variable = []
    ranked = [*symbols.index[symbols.isin(MARKERS)], *variable, *union]
    wanted = dict.fromkeys(gene for gene in ranked if only is None or gene in only)
    return pd.Index(list(wanted)[:number_of], dtype=object)


def _widest_field(encoders: Sequence[str]) -> float:
    fields = []
    for name in dict.fromkeys(filter(None, encoders)):
        try:
            fields.append(encoder_field_um(name))
        except EncoderNotFoundError:
            continue  # it is reported where its system is made
    # ST-Net's published field, also the least that keeps spots apart.
    return max(fields, default=112.0)


def _write(evaluation: Evaluation, folder: Path, setting: str) -> None:
    gene_table(evaluation).to_csv(folder / f"genes-{setting}.csv", float_format="%.5f")
    rows = []
    for scores in evaluation.scores:
        slides, r = scores.slide_r()
        with np.errstate(invalid="ignore"):
            rows.append(slides.assign(system=scores.system, r=np.nanmean(r, axis=1) if r.size else np.nan))
    pd.concat(rows).to_csv(folder / f"slides-{setting}.csv", index=False, float_format="%.5f")


def _pictures(
    evaluation: Evaluation, built: dict[str, System], chosen: pd.Index, folder: Path, setting: str
) -> None:
    """Distribution of r by gene, and maps of a few genes of the first slide by the first system."""
    from past_genex.figures.distribution import r_distribution
    from past_genex.figures.maps import gene_maps

    rows = {scores.system: scores.pooled() for scores in evaluation.scores}
    rows = {name: r for name, r in rows.items() if np.isfinite(r).any()}
    split = evaluation.split
    if rows:
        heading = f"{split.name}: r by gene, {evaluation.target.name}"
        r_distribution(rows, heading=heading).savefig(folder / f"r-{setting}.png", dpi=150)
    scores = evaluation.scores[0]
    r = pd.Series(scores.pooled(), index=scores.genes).reindex(chosen).dropna()
    drawn = pd.Index(r.sort_values(ascending=False).index[:DRAWN])
    system = next((s for s in built.values() if s.name == scores.system), None)
    if system is None or not len(drawn):
        return
    fold = split.folds[0]
    drawn = drawn[drawn.isin(split.genes(fold))]
    if not len(drawn):
        return
    collector = MapCollector(split, evaluation.target, drawn)
    number_of = min(fold.test)
    for fold in split.folds:
        if number_of not in fold.test:
            continue
        only = dataclasses.replace(fold, test={number_of: fold.test[number_of]})
        for number, cells, values in system.predict(split, only, drawn):
            collector.add(fold, number, cells, values, drawn)
    cells, predicted, truth = collector.slide(number_of)
    slide = split.slides[number_of]
    picture = gene_maps(
        slide.xy_um[cells],
        truth,
        predicted,
        titles=[str(slide.symbols.get(gene, gene)) for gene in drawn],
        heading=f"{slide.name}, held out ({split.name}), {scores.system}",
        unit=evaluation.target.name,
    )
    picture.savefig(folder / f"maps-{setting}.png", dpi=150)


def run_hest(
    slides: Sequence[ExpressionSlide],
    encoders: Sequence[str],
    surroundings: Surroundings,
    folder: Path,
    *,
    genes: pd.Index | None = None,
    report: Say = lambda text: None,
) -> Outcome:
    """HEST-Bench's protocol for every encoder, see `hest`.

    Raises:
        StudyError: no encoder's weights are here.
        HestProtocolError, SplitError: slides on which it cannot run.
    """
    from rich.table import Table

    from past_core.encoders import load_image_encoder

    split = build_split("patients", slides, rim_um=0.0)
    chosen = hest_genes(split.slides) if genes is None else genes
    results: list[tuple[HestResult, float]] = []
    notes = []
    for name in encoders:
        report(f"HEST-Bench protocol: {name}")
        try:
            encoder = load_image_encoder(name)
        except EncoderNotFoundError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        features = EncoderFeatures(encoder, surroundings)
        made = hest_protocol(name, split, lambda i, f=features: f.of(split.slides[i]), genes=chosen)
        results.append((made, encoder.field_um))
    if not results:
        raise StudyError("no encoder could be evaluated: " + "; ".join(notes))
    folds = results[0][0].folds
    table = Table(
        "encoder", "field µm", "r", "sd", *folds, "constant",
        title=f"HEST-Bench protocol: {len(chosen)} genes, {split.name}",
    )  # fmt: skip
    rows = []
    for made, field_um in results:
        table.add_row(
            made.system, f"{field_um:g}", digits(made.mean), digits(made.sd),
            *(digits(value) for value in made.per_fold), str(made.constant),
        )  # fmt: skip
        rows.append(
            {
                "encoder": made.system,
                "field_um": field_um,
                "r": made.mean,
                "sd": made.sd,
                "per_fold": dict(zip(folds, made.per_fold.tolist(), strict=True)),
                "dimensions": made.dimensions.tolist(),
                "cells": made.n.tolist(),
                "constant": made.constant,
            }
        )
    columns = {
        f"{made.system} {fold}": r for made, _ in results for fold, r in zip(folds, made.r, strict=True)
    }
    pd.DataFrame(columns, index=chosen.rename("gene")).to_csv(folder / "genes-hest.csv", float_format="%.5f")
    content = {
        "protocol": "hest",
        "use": USE,
        "target": "log1p(counts)",
        "genes": list(chosen),
        "slides": _slides(slides),
        "description": split.describe(),
        "encoders": rows,
        "notes": notes,
        "software": _software(),
    }
    write_json(content, folder / "results.json")
    return Outcome([table], notes, sorted(path.name for path in folder.iterdir()))


def _slides(slides: Sequence[ExpressionSlide]) -> list[dict[str, Any]]:
    return [
        {
            "slide": slide.name,
            "patient": slide.patient,
            "cancer_type": slide.cancer_type,
            "cells": slide.n_cells,
            "genes": len(slide.genes),
        }
        for slide in slides
    ]


def _software() -> str:
    from importlib.metadata import version

    return f"past-genex {version('past-genex')}"
