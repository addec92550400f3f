"""One fold's data: everything that is learned, learned on the training rows, and the patients' inputs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_surv.data.bags import Bag, BagFolder
from past_surv.data.cohort import OMICS, Cohort
from past_surv.data.groups import GeneGroup, group_columns
from past_surv.data.learned import Scaling, TimeIntervals
from past_surv.data.splits import Fold

if TYPE_CHECKING:
    import torch

    from past_surv.data.patients import PatientDataset

logger = logging.getLogger(__name__)

VECTORS = "PAST cells"
"""Name of the group that the patients' vectors make up."""


class FoldDataError(PastError, ValueError):
    """A fold from which cannot be learned, or whose patients lack what was asked for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldData:
    """What models of one fold learn from; made by `FoldData.of`.

    Attributes:
        cohort: N patients.
        fold: rows to learn from and rows to score.
        groups: of genes, with the columns that have a value in the training fold.
        intervals: of time, from the training fold's deaths.
        scalings: of each group, and of the vectors where there are, from the training fold.
        bags: the slides' patches.
        vectors: by case, one group more; cases may be absent.
        absent: cases that lack something, and what: slides without a bag, groups without a value, no vector.
        left_out: rows of the fold that have neither a slide nor a group.
        omics: G matrices `(N, g)` float32, scaled; zeros where missing. The vectors are the last.
        missing: `(N, G)` bool, True where a patient has no value of a group.
        patient_bags: N tuples of bags.
    """

    cohort: Cohort
    fold: Fold
    groups: list[GeneGroup]
    intervals: TimeIntervals
    scalings: list[Scaling]
    bags: BagFolder | None
    vectors: pd.DataFrame | None
    absent: list[tuple[str, str]]
    left_out: np.ndarray
    omics: tuple[np.ndarray, ...]
    missing: np.ndarray
    patient_bags: tuple[tuple[Bag, ...], ...]

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        fold: Fold,
        groups: Mapping[str, Sequence[str]] | None,
        *,
        bags: BagFolder | None = None,
        vectors: pd.DataFrame | None = None,
        intervals: int = 4,
        kinds: Sequence[str] = OMICS,
        require_slides: bool = False,
        require_omics: bool = False,
    ) -> Self:
        """Learns intervals and scalings on the training rows, and looks up who has what.

        Args:
            cohort: the patients.
            fold: which of them are learned from, and which scored.
            groups: symbols by group; None without genes.
            bags: of the slides; None without slides.
            vectors: by case id, one vector each, which makes one group more; cases may be absent.
            intervals: number of intervals of time.
            kinds: endings of the omics' columns that are used.
            require_slides: refuse a fold in which any slide is missing, rather than list it.
            require_omics: refuse a fold in which a patient lacks a group, rather than mask it.

        Raises:
            FoldDataError: nothing to learn from, or what is required is missing.
            CohortError, LearnedError, BagError: see `group_columns`, `TimeIntervals`, `BagFolder.find`.
        """
        if groups is None and bags is None and vectors is None:
            raise FoldDataError(f"{cohort.name}: neither groups of genes, bags nor vectors; give one of them")
        learned = TimeIntervals.of(cohort.time[fold.train], cohort.event[fold.train], intervals=intervals)
        _name_empty_classes(cohort, fold, learned)
        made, tables = _gene_tables(cohort, fold, groups, kinds)
        if vectors is not None:
            vectors = _checked_vectors(cohort, fold, vectors)
            tables.append(vectors.reindex(cohort.cases))
        scalings = [Scaling.of(table.iloc[fold.train]) for table in tables]
        missing = np.zeros((len(cohort), len(tables)), bool)
        for number, table in enumerate(tables):
            missing[:, number] = table.isna().all(axis=1)
        rows = np.concatenate([fold.train, fold.test])
        found, absent = _find_bags(cohort, rows, bags)
        names = [group.name for group in made] + ([VECTORS] if vectors is not None else [])
        lacking = [(int(row), names[k]) for row in rows for k in np.flatnonzero(missing[row])]
        without = [(str(cohort.cases[row]), f"no value of {name}") for row, name in lacking]
        if require_slides and absent:
            raise FoldDataError(_refusal(cohort, absent, "slides", "data.require_slides"))
        if require_omics and without:
            raise FoldDataError(_refusal(cohort, without, "groups", "data.require_omics"))
        bare = np.array([not found[row] and bool(missing[row].all()) for row in rows], bool)
        data = cls(
            cohort=cohort,
            fold=fold,
            groups=made,
            intervals=learned,
            scalings=scalings,
            bags=bags,
            vectors=vectors,
            absent=absent + without,
            left_out=rows[bare],
            omics=tuple(s(t).to_numpy(np.float32) for s, t in zip(scalings, tables, strict=True)),
            missing=missing,
            patient_bags=found,
        )
        data._check_sides()
        return data

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the groups, the vectors' last."""
        own = tuple(group.name for group in self.groups)
        return own if self.vectors is None else (*own, VECTORS)

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Numbers of genes of the groups, the vectors' length last."""
        return tuple(values.shape[1] for values in self.omics)

    @property
    def patch_dim(self) -> int | None:
        """Length of a patch's vector; None without bags."""
        return None if self.bags is None else self.bags.dim

    @property
    def train_rows(self) -> np.ndarray:
        """Rows that are learned from: the fold's, without those who have nothing."""
        return self.fold.train[~np.isin(self.fold.train, self.left_out)]

    @property
    def test_rows(self) -> np.ndarray:
        """Rows that can be scored: the fold's, without those who have nothing."""
        return self.fold.test[~np.isin(self.fold.test, self.left_out)]

    def classes(self, rows: np.ndarray) -> np.ndarray:
        """`(n,)` int64 class of each row for balanced sampling: its interval, by death or censoring."""
        interval = self.intervals.of_times(self.cohort.time[rows])
        return interval * 2 + self.cohort.event[rows]

    def patients(
        self,
        rows: np.ndarray,
        *,
        max_patches: int | None = None,
        generator: "torch.Generator | None" = None,
    ) -> "PatientDataset":
        """The inputs of patients, read when they are asked for; see `PatientDataset`.

        Raises:
            FoldDataError: a row that is left out.
        """
        from past_surv.data.patients import PatientDataset

        return PatientDataset(self, rows, max_patches=max_patches, generator=generator)

    def describe(self) -> str:
        """Who is learned from and scored, with which inputs, and what is absent."""
        event, cohort = self.cohort.event, self.cohort.name
        train, test = self.train_rows, self.test_rows
        sides = (
            f"{len(train)} to learn from ({int(event[train].sum())} events), "
            f"{len(test)} to score ({int(event[test].sum())} events)"
        )
        inputs = [f"{len(self.groups)} groups of genes"] if self.groups else []
        inputs += [f"{self.patch_dim} wide patches"] if self.bags is not None else []
        inputs += [f"{self.vectors.shape[1]} wide vectors"] if self.vectors is not None else []
        lines = [f"{cohort}, fold {self.fold.name}: {sides}; {', '.join(inputs)}"]
        if self.absent:
            lines.append(f"{len(self.absent)} absent: {_some(self.absent)}")
        if len(self.left_out):
            names = [str(self.cohort.cases[row]) for row in self.left_out]
            lines.append(f"{len(names)} left out, with neither slide nor group: {', '.join(names[:5])}")
        return "\n".join(lines)

    def _check_sides(self) -> None:
        for side, rows in (("learn from", self.train_rows), ("score", self.test_rows)):
            if not len(rows) or not self.cohort.event[rows].any():
                raise FoldDataError(
                    f"{self.cohort.name}, fold {self.fold.name}: of those with a slide or a group, "
                    f"{len(rows)} are left to {side}, none of whom died; {len(self.absent)} absent: "
                    f"{_some(self.absent)}"
                )


def _gene_tables(
    cohort: Cohort, fold: Fold, groups: Mapping[str, Sequence[str]] | None, kinds: Sequence[str]
) -> tuple[list[GeneGroup], list[pd.DataFrame]]:
    """The groups with the columns that can be learned from, and their tables."""
    made, tables = [], []
    for group in [] if groups is None else group_columns(cohort, groups, kinds=kinds):
        table = cohort.omics[list(group.columns)]
        empty = table.iloc[fold.train].isna().all()
        if empty.any():
            dropped = list(table.columns[empty])
            logger.warning(
                "%s, fold %s: %d columns of %s have no value in the training fold and are left out: %s",
                cohort.name, fold.name, len(dropped), group.name, ", ".join(dropped[:5]),
            )  # fmt: skip
            table = table.loc[:, ~empty]
        if table.shape[1]:
            made.append(replace(group, columns=tuple(table.columns)))
            tables.append(table)
    if groups is not None and not made:
        raise FoldDataError(f"{cohort.name}, fold {fold.name}: no gene has a value in the training fold")
    return made, tables


def _checked_vectors(cohort: Cohort, fold: Fold, vectors: pd.DataFrame) -> pd.DataFrame:
    """The cohort's vectors, without cases whose vector is all NaN.

    Raises:
        FoldDataError: a case twice, a vector with some NaN, no numbers, or none for the training fold.
    """
    twice = vectors.index[vectors.index.duplicated()]
    if len(twice):
        raise FoldDataError(f"the vectors have case {twice[0]} twice; expected one a patient")
    own = vectors[vectors.index.isin(cohort.cases)].dropna(how="all")
    try:
        own = own.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise FoldDataError(f"the vectors hold something else than numbers ({error})") from error
    bad = np.argwhere(~np.isfinite(own.to_numpy()))
    if len(bad):
        row, column = bad[0]
        raise FoldDataError(
            f"the vector of case {own.index[row]} is NaN or infinite in column {own.columns[column]}; a case "
            "without a vector is left out of the table"
        )
    own.attrs = vectors.attrs  # how they were made
    if not own.index.isin(cohort.cases[fold.train]).any():
        raise FoldDataError(
            f"{cohort.name}, fold {fold.name}: none of the {len(vectors)} vectors is of a training case; "
            "they are found by case_id"
        )
    return own


def _find_bags(
    cohort: Cohort, rows: np.ndarray, bags: BagFolder | None
) -> tuple[tuple[tuple[Bag, ...], ...], list[tuple[str, str]]]:
    """The bags of each row, and what is absent."""
    found: list[tuple[Bag, ...]] = [()] * len(cohort)
    absent: list[tuple[str, str]] = []
    owners: dict[Path, str] = {}
    for row in rows:
        if bags is None:
            break
        case = str(cohort.cases[row])
        slides = cohort.slides.get(case, ())
        own = {slide: bags.find(slide) for slide in dict.fromkeys(slides)}
        # Two names of one slide, with and without its ending, are one bag.
        found[row] = tuple({bag.path: bag for bag in own.values() if bag is not None}.values())
        for bag in found[row]:
            other = owners.setdefault(bag.path, case)
            if other != case:
                raise FoldDataError(
                    f"{cohort.name}: {bag.path} is of slides of two cases, {other} and {case}; slides of one "
                    "name need bags of their own"
                )
        if not slides:
            absent.append((case, "no slide in the table"))
        absent += [(case, f"no bag of slide {slide}") for slide, bag in own.items() if bag is None]
    if bags is not None and not any(found):
        wanted = next((s for row in rows for s in cohort.slides.get(str(cohort.cases[row]), ())), "none")
        raise FoldDataError(
            f"{bags.folder}: none of its {len(bags)} bags is of a slide of {cohort.name}, such as {wanted}; "
            f"it has {', '.join(bags.slides[:3])}"
        )
    return tuple(found), absent


def _name_empty_classes(cohort: Cohort, fold: Fold, intervals: TimeIntervals) -> None:
    time, event = cohort.time[fold.train], cohort.event[fold.train]
    counts = np.bincount(intervals.of_times(time) * 2 + event, minlength=2 * len(intervals))
    empty = [
        f"{'died' if number % 2 else 'censored'} in interval {number // 2 + 1}"
        for number in np.flatnonzero(counts == 0)
    ]
    if empty:
        logger.warning(
            "%s, fold %s: no training case %s; balanced sampling goes without",
            cohort.name, fold.name, ", ".join(empty),
        )  # fmt: skip


def _refusal(cohort: Cohort, absent: list[tuple[str, str]], what: str, flag: str) -> str:
    return f"{cohort.name}: {len(absent)} {what} are missing and {flag} is set: {_some(absent)}"


def _some(absent: Sequence[tuple[str, str]], most: int = 5) -> str:
    more = f", and {len(absent) - most} more" if len(absent) > most else ""
    return ", ".join(f"{case} ({what})" for case, what in absent[:most]) + more
