"""Folds of a cohort: published split files, or folds made here whose sites do not straddle."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from past_core.errors import PastError
from past_core.foreign.errors import ForeignError
from past_core.foreign.tables import read_csv
from past_surv.data.cohort import Cohort


class SurvivalSplitError(PastError, ValueError):
    """Folds that leak, that are empty, or that do not fit the cohort."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Fold:
    """One fold.

    Attributes:
        name: of the fold.
        train: rows of the cohort to learn from.
        test: rows that are scored.
    """

    name: str
    train: np.ndarray
    test: np.ndarray


def read_folds(folder: str | Path, cohort: Cohort) -> list[Fold]:
    """Reads `splits_0.csv`, `splits_1.csv`, … with columns `train` and `val` (or `test`) of case ids.

    Raises:
        SurvivalSplitError: no such files, a case on both sides or scored twice, unknown cases, an empty side.
    """
    folder = Path(folder)
    numbered = [(re.fullmatch(r"splits_(\d+)\.csv", path.name), path) for path in folder.glob("splits_*.csv")]
    files = sorted((int(match[1]), path) for match, path in numbered if match)
    if not files:
        raise SurvivalSplitError(f"{folder}: no splits_0.csv, splits_1.csv, ... with columns train and val")
    folds = []
    for number, path in files:
        try:
            table = read_csv(path, dtype=str)
        except (ForeignError, OSError) as error:
            raise SurvivalSplitError(f"{path}: not a readable CSV of folds ({error})") from error
        side = next((name for name in ("val", "test") if name in table), None)
        if "train" not in table or side is None:
            raise SurvivalSplitError(f"{path}: columns {list(table.columns)}; expected train and val")
        train, test = (cohort.rows(table[name].dropna().tolist()) for name in ("train", side))
        folds.append(Fold(name=str(number), train=train, test=test))
    check_folds(folds, cohort)
    return folds


def check_folds(folds: Sequence[Fold], cohort: Cohort) -> None:
    """Refuses folds that leak or leave nothing to learn or to score.

    Raises:
        SurvivalSplitError: see there.
    """
    scored = np.concatenate([fold.test for fold in folds])
    names, counts = np.unique(scored, return_counts=True)
    if (counts > 1).any():
        raise SurvivalSplitError(
            f"{cohort.name}: case {cohort.cases[names[counts > 1][0]]} is scored in more than one fold"
        )
    for fold in folds:
        both = np.intersect1d(fold.train, fold.test)
        if len(both):
            raise SurvivalSplitError(
                f"{cohort.name}, fold {fold.name}: {len(both)} cases are both trained on and scored, "
                f"such as {cohort.cases[both[0]]}"
            )
        for side, rows in (("train", fold.train), ("scored", fold.test)):
            if not len(rows) or not cohort.event[rows].any():
                raise SurvivalSplitError(
                    f"{cohort.name}, fold {fold.name}: {len(rows)} {side} cases, none of whom died"
                )


def site_folds(cohort: Cohort, *, folds: int = 5, seed: int = 0) -> list[Fold]:
    """Folds of like size and like number of deaths, in which no contributing site is on both sides.

    Slides of one hospital look alike, and hospitals differ in survival: a model that recognises the hospital
    is rewarded where its patients are on both sides (Howard et al. 2021). Without a column `site` every
    patient is a site.

    Raises:
        SurvivalSplitError: fewer sites than folds, or a fold without a death.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    by_site = "site" in cohort.clinical
    site = cohort.clinical["site"].astype(str).to_numpy() if by_site else np.arange(len(cohort))
    if len(np.unique(site)) < folds:
        raise SurvivalSplitError(
            f"{cohort.name}: {len(np.unique(site))} {'sites' if by_site else 'patients'} for {folds} folds"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of fewer patients alive, or deaths, than folds: what that leads to is checked below.
        warnings.filterwarnings("ignore", message="The least populated class in y")
        made = [
            Fold(name=str(number), train=train, test=test)
            for number, (train, test) in enumerate(splitter.split(site, cohort.event, site))
        ]
    check_folds(made, cohort)
    return made
