"""The paper's probe in closed form: ridge on frozen features, fitted and scored from statistics."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_core.synthetic.default import cache_folder
from past_genex.metrics.pairs import PairMoments
from past_genex.statistics.collect import SlideStatistics, collect, open_statistics, statistics_key
from past_genex.statistics.folder import META
from past_genex.statistics.ridge import LinearModel, fit_ridge, score
from past_genex.statistics.selection import SelectionError
from past_genex.statistics.units import Unit
from past_genex.systems.base import Prediction, Surroundings, SystemUnavailableError, fold_cells
from past_genex.systems.features import Features

if TYPE_CHECKING:
    from past_genex.data.splits import Fold, Split

logger = logging.getLogger(__name__)

CHUNK = 8192
"""Cells predicted at a time."""

FALLBACK = 1e-2
"""Strength over the mean eigenvalue where all training cells are in one region: none can be chosen."""


class RidgeProbe:
    """A linear probe on features, its strength chosen for every gene inside the training data.

    Args:
        name: how tables call it.
        features: the features.
        surroundings: target, cache, device.
    """

    def __init__(self, name: str, features: Features, surroundings: Surroundings) -> None:
        self.name, self._features, self._surroundings = name, features, surroundings
        self._split: Split | None = None
        self._statistics: dict[int, SlideStatistics] = {}
        self._fitted: tuple[object, LinearModel] | None = None

    def score(self, split: "Split", fold: "Fold", genes: pd.Index) -> Mapping[tuple[int, int], PairMoments]:
        """See `LinearSystem`."""
        model = self.fit(split, fold, genes)
        keys: list[tuple[int, int]] = []
        units: list[Unit] = []
        for number in sorted(fold.test):
            for region, unit in self.statistics(split, number).region_units(fold.test[number]).items():
                keys.append((number, region))
                units.append(unit)
        if not units:
            raise SystemUnavailableError(f"fold {fold.name} of {split.name} has no test cell")
        scored = score(model, units, genes)
        return {key: scored[row] for row, key in enumerate(keys)}

    def predict(self, split: "Split", fold: "Fold", genes: pd.Index) -> Iterator[Prediction]:
        """See `System`."""
        model = self.fit(split, fold, genes)
        column = model.genes.get_indexer(genes)
        for number, cells in fold_cells(split, fold.test):
            features = self._features.of(split.slides[number])
            for start in range(0, len(cells), CHUNK):
                part = cells[start : start + CHUNK]
                yield number, part, np.where(column >= 0, model.predict(features[part])[:, column], np.nan)

    def fit(self, split: "Split", fold: "Fold", genes: pd.Index) -> LinearModel:
        """The probe of a fold's training cells, over those of the genes that one of them measures.

        Raises:
            SystemUnavailableError: no training cell, or none that measures any of the genes.
        """
        units = self.units(split, fold.train)
        key = (fold.name, tuple(genes))
        if self._fitted is not None and self._fitted[0] == key:
            return self._fitted[1]
        model = self.fit_units(units, genes)
        self._fitted = (key, model)
        return model

    def units(self, split: "Split", parts: Mapping[int, np.ndarray]) -> list[Unit]:
        """Training units: slides, grouped by patient; the regions of a single patient's slides."""
        statistics = {number: self.statistics(split, number) for number in sorted(parts)}
        if len({s.patient for s in statistics.values()}) > 1:
            units = [s.unit(parts[number]) for number, s in statistics.items()]
        else:
            units = [u for number, s in statistics.items() for u in s.region_units(parts[number]).values()]
        return [unit for unit in units if unit.moments.n]

    def fit_units(self, units: list[Unit], genes: pd.Index) -> LinearModel:
        """Fits, with a strength chosen inside, or `FALLBACK` where there is only one unit."""
        measured = np.zeros(len(genes), bool)
        for unit in units:
            measured |= genes.isin(unit.genes)
        if not measured.any():
            raise SystemUnavailableError(
                f"{len(units)} training units with cells, and none measures any of the {len(genes)} genes"
            )
        try:
            return fit_ridge(units, genes[measured])
        except SelectionError as error:
            logger.warning("%s: %s; takes %g of the mean eigenvalue", self.name, error, FALLBACK)
            return fit_ridge(units, genes[measured], relative_alpha=FALLBACK)

    def statistics(self, split: "Split", number: int) -> SlideStatistics:
        """A slide's statistics under the split's regions, collected once into the cache."""
        if self._split is not split:
            self._split, self._statistics, self._fitted = split, {}, None
        if number not in self._statistics:
            slide, regions, target = split.slides[number], split.regions[number], self._surroundings.target
            key = statistics_key(slide, self._features.dim, regions, target, self._features)
            digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
            folder = cache_folder(self._surroundings.cache) / "genex" / "statistics" / digest
            if (folder / META).is_file():
                self._statistics[number] = open_statistics(folder).require(key)
            else:
                features = self._features.of(slide)
                self._statistics[number] = collect(
                    slide, features, regions, target, folder, encoder=self._features
                )
        return self._statistics[number]
