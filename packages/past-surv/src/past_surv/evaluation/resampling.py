"""One bootstrap over patients for everything that is compared, so that every difference is paired.

The statistic is the one of the tables: the mean over folds, and over seeds, of the concordance within each
fold. Patients are drawn anew within every fold, with the same draws for all systems and encoders.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from past_surv.evaluation.cells import CellResult
from past_surv.evaluation.scores import TAU_QUANTILE, tau_of
from past_surv.evaluation.sources import load
from past_surv.metrics.bootstrap import multiplicities, resampled_c
from past_surv.metrics.concordance import censoring_survival

Entry = tuple[str, str]
"""Encoder and system."""
RESAMPLED = ("harrell", "uno_tau")
"""Metrics that have intervals."""
RESAMPLES = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredFold:
    """The scored patients of a fold, and every entry's risks of them.

    Attributes:
        name: of the fold.
        event: `(N,)` bool.
        time: `(N,)`.
        weights: metric to `(N,)` weights of the deaths, or None for 1.
        counts: `(B + 1, N)` how often each is drawn; the first row is the sample itself.
        risks: entry to `(S, N)` risks by seed; NaN where one says nothing.
    """

    name: str
    event: np.ndarray
    time: np.ndarray
    weights: dict[str, np.ndarray | None]
    counts: np.ndarray
    risks: dict[Entry, np.ndarray] = field(default_factory=dict)

    def known(self, entry: Entry) -> np.ndarray:
        """`(N,)` bool: of whom the entry says something with every seed."""
        return np.isfinite(self.risks[entry]).all(axis=0)

    def draws(self, entry: Entry, metric: str, known: np.ndarray) -> np.ndarray:
        """`(B + 1,)` concordance, mean over seeds, of those among `known` in each resample."""
        risks = np.where(known, self.risks[entry], 0.0)
        counts = self.counts * known
        return resampled_c(self.event, self.time, risks, counts, weight=self.weights[metric]).mean(axis=0)


class CohortBootstrap:
    """Resamples of one cohort.

    Args:
        results: all cells of the cohort.
        resamples: how many.
        seed: of the draws.
        tau_quantile: of tau.
    """

    def __init__(
        self,
        results: Sequence[CellResult],
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
        tau_quantile: float = TAU_QUANTILE,
    ) -> None:
        self.cohort, folds = load(results[0].cell.cohort)
        self.name, self.resamples, self.fold_count = self.cohort.name, resamples, len(folds)
        self.folds: list[ScoredFold] = []
        self._draws: dict[tuple, np.ndarray] = {}
        for number, fold in enumerate(folds):
            train_event, train_time = self.cohort.event[fold.train], self.cohort.time[fold.train]
            time = self.cohort.time[fold.test]
            tau = tau_of(train_event, train_time, quantile=tau_quantile)
            seen = censoring_survival(train_event, train_time, time)
            weight = np.where(
                time < tau, np.divide(1.0, seen**2, out=np.zeros(len(time)), where=seen > 0), 0.0
            )
            # The draws depend on the cohort and the fold only: not on what else is compared.
            stream = zlib.crc32(f"{self.name} {fold.name}".encode()) + seed
            drawn = multiplicities(len(time), resamples, seed=stream)
            self.folds.append(
                ScoredFold(
                    name=fold.name,
                    event=self.cohort.event[fold.test],
                    time=time,
                    weights={"harrell": None, "uno_tau": weight},
                    counts=np.concatenate([np.ones((1, len(time))), drawn]),
                )
            )
            by_entry: dict[Entry, list[np.ndarray]] = {}
            for result in results:
                if result.cell.fold == number:
                    by_entry.setdefault((result.cell.encoder, result.cell.system), []).append(result.risk)
            self.folds[-1].risks.update({entry: np.stack(risks) for entry, risks in by_entry.items()})

    @property
    def entries(self) -> list[Entry]:
        """Those that have a prediction in every fold, in order."""
        first = self.folds[0].risks
        return [entry for entry in first if all(entry in fold.risks for fold in self.folds)]

    def draws(self, entry: Entry, metric: str, *, beside: Entry | None = None) -> np.ndarray:
        """`(B + 1,)` mean over folds; the first is the sample itself, NaN where no fold defines it.

        Args:
            entry: whose.
            metric: one of `RESAMPLED`.
            beside: only patients of whom this entry says something as well.
        """
        masks = [fold.known(entry) & (fold.known(beside) if beside else True) for fold in self.folds]
        key = (entry, metric, *(mask.tobytes() for mask in masks))
        if key not in self._draws:
            by_fold = np.stack(
                [fold.draws(entry, metric, mask) for fold, mask in zip(self.folds, masks, strict=True)]
            )
            defined = np.isfinite(by_fold[:, 0])
            nothing = np.full(self.resamples + 1, np.nan)
            self._draws[key] = by_fold[defined].mean(axis=0) if defined.any() else nothing
        return self._draws[key]

    def events(self, entry: Entry, beside: Entry | None = None) -> tuple[int, int]:
        """Patients that both say something of, and deaths among them."""
        masks = [fold.known(entry) & (fold.known(beside) if beside else True) for fold in self.folds]
        events = sum(int(fold.event[mask].sum()) for fold, mask in zip(self.folds, masks, strict=True))
        return sum(int(mask.sum()) for mask in masks), events


def bootstraps(
    results: Sequence[CellResult],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    tau_quantile: float = TAU_QUANTILE,
) -> dict[str, CohortBootstrap]:
    """One of each cohort, by name."""
    by_cohort: dict[str, list[CellResult]] = {}
    for result in results:
        by_cohort.setdefault(result.cell.cohort.name, []).append(result)
    return {
        name: CohortBootstrap(own, resamples=resamples, seed=seed, tau_quantile=tau_quantile)
        for name, own in by_cohort.items()
    }
