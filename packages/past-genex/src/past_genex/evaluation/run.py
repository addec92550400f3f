"""Evaluates systems under one split."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.frozen import EncoderNotFoundError
from past_genex.data.slides import union_genes
from past_genex.data.targets import Target
from past_genex.evaluation.maps import MapCollector
from past_genex.evaluation.scores import UNIT, Scores
from past_genex.metrics.pairs import PairMoments
from past_genex.systems.base import LinearSystem, Prediction, System, SystemUnavailableError

if TYPE_CHECKING:
    from past_genex.data.splits import Fold, Split

logger = logging.getLogger(__name__)


class LeakageError(PastError, ValueError):
    """A split whose training cells are too near its test cells."""


class PredictionError(PastError, ValueError):
    """A system gave something else than predictions of the test cells."""


@dataclass(frozen=True)
class Evaluation:
    """What came out under one split.

    Attributes:
        split: the split.
        target: what was predicted.
        scores: one of each system that ran.
        skipped: why the others did not, by system.
    """

    split: "Split"
    target: Target
    scores: tuple[Scores, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, system: str) -> Scores:
        for scores in self.scores:
            if scores.system == system:
                return scores
        raise KeyError(system)


def evaluate(
    split: "Split",
    systems: Iterable[System | tuple[str, Callable[[], System]]],
    target: Target,
    *,
    genes: pd.Index | None = None,
    maps: pd.Index | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Scores systems on the test cells of every fold of a split.

    Linear systems are scored from sums, without predictions; predictions are made for the others, and for
    the genes in `maps`.

    Args:
        split: the split; one that leaks is refused unless its setting is "random".
        systems: systems, or their names with functions that make them, so that one whose weights are not
            here is reported while the rest goes on.
        target: what is predicted; the systems' own.
        genes: only these genes.
        maps: genes whose Spearman correlation and Moran's I are wanted too; None for none.
        progress: called with a system's name, folds done, and folds in all.

    Raises:
        LeakageError: training and test cells share a patient or lie too close, and the split does not say so.
        PredictionError: a system's predictions are not finite, or not of its test cells.
    """
    check_leakage(split)
    union = union_genes(split.slides)
    union = union if genes is None else union[union.isin(genes)]
    if not len(union):
        raise PredictionError(f"split {split.name}: none of the asked genes is measured on any of its slides")
    scores, skipped = [], {}
    for entry in systems:
        name, make = (entry.name, lambda system=entry: system) if isinstance(entry, System) else entry
        try:
            system = make()
            scores.append(_score(split, system, target, union, maps, progress))
        except (EncoderNotFoundError, SystemUnavailableError) as error:
            skipped[name] = str(error)
            logger.info("%s is left out: %s", name, error)
    return Evaluation(split, target, tuple(scores), skipped)


def check_leakage(split: "Split") -> None:
    """Refuses a split that leaks without saying so.

    Raises:
        LeakageError: see `evaluate`.
    """
    if split.setting != "random" and not split.leakage().clean:
        raise LeakageError(
            f"split {split.name} leaks: {split.leakage()}; widen the rim, or take another split (only "
            'the setting "random" may leak, to show what that adds)'
        )


def _score(
    split: "Split",
    system: System,
    target: Target,
    union: pd.Index,
    maps: pd.Index | None,
    progress: Callable[[str, int, int], None] | None,
) -> Scores:
    rows: list[tuple[str, str, str, str, int]] = []
    moments: list[PairMoments] = []
    unpredicted = 0
    collector = MapCollector(split, target, maps) if maps is not None and len(maps) else None
    for done, fold in enumerate(split.folds):
        if progress is not None:
            progress(system.name, done, len(split.folds))
        genes = split.genes(fold)
        genes = genes[genes.isin(union)]
        if not len(genes):
            continue
        column = union.get_indexer(genes)
        linear = isinstance(system, LinearSystem)
        units = (
            system.score(split, fold, genes)
            if isinstance(system, LinearSystem)
            else _from_predictions(split, system, fold, genes, target, collector)
        )
        if linear and collector is not None:
            wanted = genes[genes.isin(maps)]
            for number, cells, values in system.predict(split, fold, wanted):
                collector.add(fold, number, cells, values, wanted)
        predicted = np.zeros(len(genes), bool)
        for (number, region), unit in sorted(units.items()):
            slide = split.slides[number]
            rows.append((fold.name, slide.patient, slide.cancer_type, slide.name, region))
            moments.append(_scatter(unit, column, len(union)))
            predicted |= unit.n > 0
        unpredicted += int(np.count_nonzero(~predicted))
    if progress is not None:
        progress(system.name, len(split.folds), len(split.folds))
    if not moments:
        raise SystemUnavailableError(f"split {split.name} has no fold with genes on both sides to score")
    extra, slides = collector.figures(union) if collector is not None else ({}, pd.DataFrame())
    units_table = pd.DataFrame(rows, columns=UNIT)
    return Scores(
        system.name, split.setting, split.name, target.name, union, units_table, PairMoments.stack(moments),
        unpredicted, extra, slides,
    )  # fmt: skip


def _from_predictions(
    split: "Split",
    system: System,
    fold: "Fold",
    genes: pd.Index,
    target: Target,
    collector: MapCollector | None,
) -> dict[tuple[int, int], PairMoments]:
    """Moments of each test region, from predictions that come in pieces."""
    parts: dict[tuple[int, int], list[PairMoments]] = {}
    seen = dict.fromkeys(fold.test, 0)
    for number, cells, values in system.predict(split, fold, genes):
        _check(split, system, fold, (number, cells, values), genes)
        seen[number] += len(cells)
        if collector is not None:
            collector.add(fold, number, cells, values, genes)
        truth = split.slides[number].expression(target, genes, cells)
        missing = np.isnan(values).all(axis=0)
        truth[:, missing] = np.nan
        region = split.regions[number].region[cells]
        for code in np.unique(region):
            here = region == code
            filled = np.where(missing, 0.0, values[here])
            parts.setdefault((number, int(code)), []).append(PairMoments.of(filled, truth[here]))
    for number, found in seen.items():
        expected = int(split.regions[number].cells(fold.test[number]).sum())
        if found != expected:
            raise PredictionError(
                f"{system.name} gave predictions of {found} cells of {split.slides[number].name} in fold "
                f"{fold.name}; expected {expected}"
            )
    return {key: PairMoments.stack(pieces).merged() for key, pieces in parts.items()}


def _check(split: "Split", system: System, fold: "Fold", prediction: Prediction, genes: pd.Index) -> None:
    number, cells, values = prediction
    where = f"{system.name}, fold {fold.name}, slide {split.slides[number].name}"
    if number not in fold.test or values.shape != (len(cells), len(genes)):
        raise PredictionError(f"{where}: predictions of shape {values.shape} for {len(cells)} test cells")
    missing = np.isnan(values).all(axis=0)
    bad = ~np.isfinite(values) & ~missing
    if bad.any():
        raise PredictionError(
            f"{where}: {int(bad.any(axis=1).sum())} of {len(cells)} cells have predictions that are NaN or "
            f"infinite, such as of {genes[np.flatnonzero(bad.any(axis=0))[0]]}"
        )


def _scatter(unit: PairMoments, column: np.ndarray, width: int) -> PairMoments:
    """Moments of some genes among all; n is 0 for the others."""

    def wide(values: np.ndarray) -> np.ndarray:
        out = np.zeros(width)
        out[column] = values
        return out

    return PairMoments(*(wide(getattr(unit, f)) for f in ("n", "mean_p", "mean_t", "pp", "tt", "pt")))


def names(entries: Sequence[System | tuple[str, Callable[[], System]]]) -> list[str]:
    """The names of systems, made or not."""
    return [entry.name if isinstance(entry, System) else entry[0] for entry in entries]
