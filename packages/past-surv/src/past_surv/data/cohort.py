"""A cohort: who was followed for how long, with which slides, and the clinical and molecular columns."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.foreign.errors import ForeignError
from past_core.foreign.tables import read_csv

logger = logging.getLogger(__name__)

OMICS = ("_rnaseq", "_cnv", "_mut")
"""Endings of the columns of expression, copy number and mutation."""
CLINICAL = ("age", "is_female", "site", "oncotree_code")
MAX_BYTES = 4 * 2**30
"""Largest table, unpacked."""


class CohortError(PastError, ValueError):
    """A cohort table that cannot be used."""


class CohortNotFoundError(PastError, FileNotFoundError):
    """No cohort table is there."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cohort:
    """N patients of one cohort.

    Attributes:
        name: of the cohort.
        outcome: by case id: `time` (float, above 0) and `event` (bool, True where death was seen).
        slides: case id to the names of its slides, in the table's order.
        clinical: by case id, the columns of `CLINICAL` that there are.
        omics: by case id, genes as `SYMBOL_rnaseq`, `SYMBOL_cnv`, `SYMBOL_mut`, float64; NaN is missing.
        unit: of the times.
    """

    name: str
    outcome: pd.DataFrame
    slides: dict[str, tuple[str, ...]]
    clinical: pd.DataFrame
    omics: pd.DataFrame
    unit: str = "months"

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def cases(self) -> pd.Index:
        """Case ids, in order."""
        return self.outcome.index

    @property
    def time(self) -> np.ndarray:
        """`(N,)` times."""
        return self.outcome["time"].to_numpy(np.float64)

    @property
    def event(self) -> np.ndarray:
        """`(N,)` bool."""
        return self.outcome["event"].to_numpy(bool)

    def rows(self, cases: Sequence[str]) -> np.ndarray:
        """Row numbers of cases.

        Raises:
            CohortError: cases that the cohort does not have.
        """
        rows = self.cases.get_indexer(pd.Index(cases))
        unknown = [str(case) for case, row in zip(cases, rows, strict=True) if row < 0]
        if unknown:
            raise CohortError(
                f"{self.name}: {len(unknown)} of {len(rows)} cases are not in the cohort: {_some(unknown)}"
            )
        return rows

    def describe(self) -> str:
        """Patients, events, slides and kinds of omics in one line."""
        kinds = {kind[1:]: sum(name.endswith(kind) for name in self.omics) for kind in OMICS}
        found = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count) or "no omics"
        missing = [kind for kind, count in kinds.items() if not count]
        lacks = f" (no {', no '.join(missing)})" if missing and self.omics.shape[1] else ""
        slides = sum(map(len, self.slides.values()))
        counts = f"{len(self):,} patients, {int(self.event.sum())} events, {slides:,} slides"
        return f"{self.name}: {counts}, {found}{lacks}"


def read_cohort(path: str | Path, *, name: str | None = None) -> Cohort:
    """Reads a table with one row a slide, as MCAT and PORPOISE have it.

    Columns `case_id`, `slide_id`, `survival_months` (or `time`), and `censorship` (1 = censored) or `event`
    (1 = died); `age`, `is_female`, `site`, `oncotree_code` where there are; genes end in `_rnaseq`, `_cnv` or
    `_mut`. Slides of one case are joined.

    Args:
        path: a CSV, also compressed (.gz, .zip with one CSV).
        name: of the cohort; by default the file's first word after `tcga_`.

    Raises:
        CohortNotFoundError: nothing is there.
        CohortError: columns that are missing, times that are not positive, cases whose rows disagree, genes
            that are no numbers.
    """
    path = Path(path)
    table = _table(path)
    time, event = _outcome_columns(table, path)
    table = table.assign(time=time, event=event)
    cases = table["case_id"].astype(str)
    _check_outcomes(table, cases, path)
    first = table.assign(case_id=cases).drop_duplicates("case_id").set_index("case_id")
    omics = [column for column in table if str(column).endswith(OMICS)]
    _check_agreement(table.set_index(cases)[["time", "event", *omics]], path)
    slides: dict[str, tuple[str, ...]] = dict.fromkeys(first.index, ())
    if "slide_id" in table:
        for case, slide in zip(cases, table["slide_id"], strict=True):
            if isinstance(slide, str) and slide:
                slides[case] += (slide,)
    return Cohort(
        name=name or path.name.removeprefix("tcga_").split("_")[0].split(".")[0],
        outcome=first[["time", "event"]].astype({"time": float, "event": bool}),
        slides=slides,
        clinical=first[[column for column in CLINICAL if column in first]],
        omics=_numbers(first[omics], path),
    )


def _table(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise CohortNotFoundError(f"{path}: no such cohort table; expected a CSV with one row a slide")
    try:
        table = read_csv(path, max_bytes=MAX_BYTES, low_memory=False)
    except (ForeignError, OSError) as error:
        raise CohortError(f"{path}: not a readable CSV ({error})") from error
    if "case_id" not in table:
        raise CohortError(f"{path}: no column case_id; it has {_some([str(c) for c in table.columns])}")
    if table["case_id"].isna().any():
        row = int(table["case_id"].isna().to_numpy().argmax())
        raise CohortError(f"{path}, line {row + 2}: the case_id is empty")
    return table.loc[:, ~table.columns.str.startswith("Unnamed")]


def _outcome_columns(table: pd.DataFrame, path: Path) -> tuple[pd.Series, pd.Series]:
    time = next((name for name in ("survival_months", "time") if name in table), None)
    event = next((name for name in ("censorship", "event") if name in table), None)
    if time is None or event is None:
        raise CohortError(
            f"{path}: expected a column survival_months or time, and censorship (1 = censored) or event "
            f"(1 = died); it has {_some([str(c) for c in table.columns])}"
        )
    values = pd.to_numeric(table[event], errors="coerce")
    wrong = np.flatnonzero(~values.isin([0, 1]))
    if len(wrong):
        raise CohortError(
            f"{path}, line {wrong[0] + 2}: {event} is {table[event].iloc[wrong[0]]}; expected 0 or 1"
        )
    return pd.to_numeric(table[time], errors="coerce"), values == (0 if event == "censorship" else 1)


def _check_outcomes(table: pd.DataFrame, cases: pd.Series, path: Path) -> None:
    wrong = np.flatnonzero(~(np.isfinite(table["time"]) & (table["time"] > 0)))
    if len(wrong):
        raise CohortError(
            f"{path}, line {wrong[0] + 2}: case {cases.iloc[wrong[0]]} has a time of "
            f"{table['time'].iloc[wrong[0]]}; expected a positive number ({len(wrong)} such rows)"
        )
    if not table["event"].any():
        raise CohortError(f"{path}: all {cases.nunique()} patients are censored; nothing can be learned")
    if "slide_id" in table:
        known = table["slide_id"].notna()
        owners = cases[known].groupby(table.loc[known, "slide_id"].astype(str)).nunique()
        shared = owners.index[owners > 1]
        if len(shared):
            raise CohortError(f"{path}: slide {shared[0]} belongs to {owners[shared[0]]} cases")


def _check_agreement(rows: pd.DataFrame, path: Path) -> None:
    several = rows[rows.index.duplicated(keep=False)]
    if several.empty:
        return
    first = several.groupby(level=0).transform("first")
    # NaN beside a number differs too; NaN beside NaN does not.
    differ = np.argwhere(((several != first) & ~(several.isna() & first.isna())).to_numpy())
    if len(differ):
        case, column = several.index[differ[0, 0]], several.columns[differ[0, 1]]
        values = several.loc[case, column].unique()
        raise CohortError(
            f"{path}: the rows of case {case} disagree on {column} ({_some([str(v) for v in values])})"
        )


def _numbers(omics: pd.DataFrame, path: Path) -> pd.DataFrame:
    for column in omics.select_dtypes(exclude="number"):
        given = omics[column]
        wrong = np.flatnonzero(pd.to_numeric(given, errors="coerce").isna() & given.notna())
        if len(wrong):
            raise CohortError(
                f"{path}: {column} of case {omics.index[wrong[0]]} is {given.iloc[wrong[0]]!r}; not a number"
            )
    values = omics.apply(pd.to_numeric).astype(np.float64)
    infinite = np.argwhere(np.isinf(values.to_numpy()))
    if len(infinite):
        row, column = infinite[0]
        raise CohortError(f"{path}: {values.columns[column]} of case {values.index[row]} is infinite")
    return values


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
