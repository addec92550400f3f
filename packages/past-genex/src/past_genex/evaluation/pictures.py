"""Pictures of an evaluation: r by gene of every system, and maps of the genes that are predicted best."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from past_genex.evaluation.maps import MapCollector
from past_genex.evaluation.run import Evaluation
from past_genex.systems.base import System

DRAWN = 4
"""Genes of the picture of maps."""


def draw_distribution(evaluation: Evaluation, path: Path, *, ceiling: np.ndarray | None = None) -> None:
    """R of every gene within slides, of every system, with the noise ceiling below; no file without an r.

    Args:
        evaluation: what came out.
        path: of the picture.
        ceiling: `(G,)` by gene of the scores, NaN where it is not known.
    """
    from past_genex.figures.distribution import r_distribution

    rows = {scores.system: scores.per_slide() for scores in evaluation.scores}
    rows = {name: r for name, r in rows.items() if np.isfinite(r).any()}
    if not rows:
        return
    if ceiling is not None and not np.isfinite(ceiling).any():
        ceiling = None
    picture = r_distribution(
        rows,
        ceiling=ceiling,
        heading=f"{evaluation.split.name}: r by gene",
        xlabel=f"r within slides over held-out cells, {evaluation.target.name}",
    )
    picture.savefig(path, dpi=150)


def draw_maps(evaluation: Evaluation, built: Mapping[str, System], genes: pd.Index, path: Path) -> None:
    """Maps of the first slide by the first system; no file where that has no r of any of the genes.

    Args:
        evaluation: what came out.
        built: the systems.
        genes: to choose from: the `DRAWN` of the largest r within that slide.
        path: of the picture.
    """
    from past_genex.figures.maps import gene_maps

    scores, split = evaluation.scores[0], evaluation.split
    system = next((s for s in built.values() if s.name == scores.system), None)
    number_of = min(split.folds[0].test)
    slide = split.slides[number_of]
    slides, values = scores.slide_r()
    row = values[slides["slide"].to_numpy() == slide.name]
    if system is None or not len(row):
        return
    r = pd.Series(row[0], index=scores.genes).reindex(genes).dropna()
    drawn = pd.Index(r.sort_values(ascending=False).index[:DRAWN])
    folds = [fold for fold in split.folds if number_of in fold.test]
    drawn = drawn[[all(gene in split.genes(fold) for fold in folds) for gene in drawn]]
    if not len(drawn):
        return
    collector = MapCollector(split, evaluation.target, drawn)
    for fold in folds:
        only = dataclasses.replace(fold, test={number_of: fold.test[number_of]})
        for number, cells, predicted in system.predict(split, only, drawn):
            collector.add(fold, number, cells, predicted, drawn)
    cells, predicted, truth = collector.slide(number_of)
    picture = gene_maps(
        slide.xy_um[cells],
        truth,
        predicted,
        titles=[str(slide.symbols.get(gene, gene)) for gene in drawn],
        r=r[drawn].to_numpy(),
        heading=f"{slide.name}, held out ({split.name}), {scores.system}",
        unit="log1p expression",
    )
    picture.savefig(path, dpi=150)
