"""Cox models: on age and sex, and with an elastic net on genes."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_surv.data.cohort import Cohort
from past_surv.data.learned import Scaling
from past_surv.data.splits import Fold
from past_surv.metrics.concordance import harrell_c
from past_surv.systems.base import FoldPrediction, Predicting, gene_columns

logger = logging.getLogger(__name__)


class CoxError(PastError, ValueError):
    """Columns that a Cox model cannot use."""


class ClinicalCox(Predicting):
    """Cox's model on clinical columns, by default age and sex: the floor that a slide has to beat.

    Args:
        columns: of `Cohort.clinical`; all must be numbers. Missing values become the training fold's mean.
    """

    def __init__(self, columns: Sequence[str] = ("age", "is_female")) -> None:
        self.columns = tuple(columns)
        self.name = (
            "Cox on age and sex" if columns == ("age", "is_female") else f"Cox on {', '.join(columns)}"
        )

    def predict(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> FoldPrediction:
        """Fits the training fold and gives the log hazard ratio of the scored rows, and their curves.

        Raises:
            CoxError: columns that the cohort lacks, or that do not vary in the training fold.
        """
        from sksurv.linear_model import CoxPHSurvivalAnalysis

        absent = [name for name in self.columns if name not in cohort.clinical]
        if absent:
            raise CoxError(f"{cohort.name}: no clinical column {absent[0]!r}; it has {list(cohort.clinical)}")
        table = cohort.clinical[list(self.columns)].apply(pd.to_numeric)
        train, test = table.iloc[fold.train], table.iloc[fold.test]
        varying = [name for name in self.columns if train[name].min() < train[name].max()]
        if not varying:
            raise CoxError(f"{cohort.name}, fold {fold.name}: {', '.join(self.columns)} do not vary")
        scaling = Scaling.of(train[varying])
        model = CoxPHSurvivalAnalysis().fit(scaling(train).to_numpy(), outcome(cohort, fold.train))
        x = scaling(test).to_numpy()
        ratio = dict(zip(varying, np.exp(model.coef_).round(6).tolist(), strict=True))
        return _prediction(model.predict(x), model.predict_survival_function(x), {"hazard_ratio": ratio})


class GeneCoxnet(Predicting):
    """Cox's model with an elastic net on all given genes; its strength is chosen inside the training fold.

    Args:
        columns: of `Cohort.omics`; null takes those of `groups`.
        groups: symbols by group, whose columns are used, each once; null takes all genes of the cohort.
        l1_ratio: share of the L1 penalty.
        inner_folds: of the choice of the strength, by Harrell's C.
        strengths: how many strengths are tried.
    """

    def __init__(
        self,
        columns: Sequence[str] | None = None,
        *,
        groups: Mapping[str, Sequence[str]] | None = None,
        l1_ratio: float = 0.5,
        inner_folds: int = 3,
        strengths: int = 30,
    ) -> None:
        self.columns, self.groups, self.l1_ratio = columns, groups, l1_ratio
        self.inner_folds, self.strengths = inner_folds, strengths
        self.name = "Coxnet on genes"

    def predict(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> FoldPrediction:
        """Fits the training fold and gives the log hazard ratio of the scored rows, and their curves."""
        from sklearn.model_selection import StratifiedKFold

        genes = cohort.omics[gene_columns(cohort, self.columns, self.groups)]
        train, test = genes.iloc[fold.train], genes.iloc[fold.test]
        scaling = Scaling.of(train)
        path = self._path(scaling(train), cohort, fold.train)
        splitter = StratifiedKFold(self.inner_folds, shuffle=True, random_state=seed)
        scores = np.full((self.inner_folds, len(path.alphas_)), np.nan)
        for number, (fit, held) in enumerate(splitter.split(fold.train, cohort.event[fold.train])):
            inner = Scaling.of(train.iloc[fit])
            model = self._path(inner(train.iloc[fit]), cohort, fold.train[fit], alphas=path.alphas_)
            rows, table = fold.train[held], inner(train.iloc[held]).to_numpy()
            for k, alpha in enumerate(model.alphas_):
                risk = model.predict(table, alpha=alpha)
                scores[number, k] = harrell_c(cohort.event[rows], cohort.time[rows], risk).value or np.nan
        best = path.alphas_[int(np.nanargmax(np.nanmean(scores, axis=0)))]
        x = scaling(test).to_numpy()
        kept = int((path.coef_[:, int(np.flatnonzero(path.alphas_ == best)[0])] != 0).sum())
        return _prediction(
            path.predict(x, alpha=best),
            path.predict_survival_function(x, alpha=best),
            {"genes": genes.shape[1], "genes_kept": kept, "strength": float(best)},
        )

    def _path(
        self, table: pd.DataFrame, cohort: Cohort, rows: np.ndarray, alphas: np.ndarray | None = None
    ) -> Any:
        from sksurv.linear_model import CoxnetSurvivalAnalysis

        model = CoxnetSurvivalAnalysis(
            l1_ratio=self.l1_ratio,
            n_alphas=self.strengths,
            alphas=alphas,
            alpha_min_ratio=0.05,
            fit_baseline_model=alphas is None,  # only the path's curves are asked for
        )
        with warnings.catch_warnings():
            # The weakest strengths may not converge; they then lose in the inner folds.
            warnings.simplefilter("ignore")
            return model.fit(table.to_numpy(), outcome(cohort, rows))


def outcome(cohort: Cohort, rows: np.ndarray) -> np.ndarray:
    """Events and times as scikit-survival's structured array."""
    from sksurv.util import Surv

    return Surv.from_arrays(cohort.event[rows], cohort.time[rows])


def _prediction(risk: np.ndarray, curves: Sequence[Any], info: dict[str, object]) -> FoldPrediction:
    """Risks, and survival at every time of the training fold's deaths or censorings."""
    times = curves[0].x
    survival = np.stack([curve.y for curve in curves])
    return FoldPrediction(
        risk=risk,
        survival=np.concatenate([survival, survival[:, -1:]], axis=1),
        edges=np.concatenate([[-np.inf], times, [np.inf]]),
        info=info,
    )
