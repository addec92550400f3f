"""Where a cohort's patients and folds come from, and what tells one content of files from another."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from past_core.errors import PastError
from past_surv.data.cohort import OMICS, Cohort, CohortError, CohortNotFoundError, read_cohort
from past_surv.data.splits import Fold, SurvivalSplitError, read_folds, site_folds

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
"""Names of cohorts and encoders, which also name folders."""


class SourceError(PastError, ValueError):
    """Cohorts or encoders that were asked for in a way that cannot be followed."""


@dataclass(frozen=True, kw_only=True)
class CohortSource:
    """One cohort by its files.

    Attributes:
        name: of the cohort.
        paths: of its tables; several are joined.
        digest: of the tables' bytes.
        splits: folder of split files; None makes folds by site.
        splits_digest: of the split files' bytes; None without.
        folds: how many folds are made where there are no split files.
        seed: of those folds.
    """

    name: str
    paths: tuple[Path, ...]
    digest: str
    splits: Path | None = None
    splits_digest: str | None = None
    folds: int = 5
    seed: int = 0


def cohort_source(
    paths: Iterable[str | Path],
    *,
    name: str | None = None,
    splits: str | Path | None = None,
    folds: int = 5,
    seed: int = 0,
) -> CohortSource:
    """Finds a cohort's files, and its folds among `splits`.

    Args:
        paths: of one table, or of several that are joined.
        name: of the cohort; needed where several are joined. Otherwise the file's first word after `tcga_`.
        splits: a folder with splits_0.csv, ...; or one with a folder `NAME` or `tcga_NAME` a cohort. None
            makes folds whose sites do not straddle.
        folds: how many are made then.
        seed: of those.

    Raises:
        SourceError: no name for several tables, or one that cannot name a folder.
        CohortNotFoundError: no such table.
        SurvivalSplitError: no folds of this cohort there.
    """
    files = tuple(Path(path).resolve() for path in paths)
    if name is None:
        if len(files) != 1:
            raise SourceError(f"{len(files)} tables joined under no name; write --cohort NAME=a.csv,b.csv")
        name = files[0].name.removeprefix("tcga_").split("_")[0].split(".")[0]
    if not NAME.fullmatch(name):
        raise SourceError(
            f"cohort {name!r}; expected a name of letters, digits and _.+- that begins with no mark"
        )
    for path in files:
        if not path.is_file():
            raise CohortNotFoundError(f"{path}: no such cohort table")
    folder = None if splits is None else _split_folder(Path(splits).resolve(), name)
    return CohortSource(
        name=name,
        paths=files,
        digest=digest_of(*(file_digest(path) for path in files)),
        splits=folder,
        splits_digest=None
        if folder is None
        else digest_of(*(f"{p.name} {file_digest(p)}" for p in sorted(folder.glob("splits_*.csv")))),
        folds=folds,
        seed=seed,
    )


@lru_cache(maxsize=8)
def load(source: CohortSource) -> tuple[Cohort, tuple[Fold, ...]]:
    """Reads a cohort and its folds; kept in memory, as every cell of a matrix asks for them.

    Raises:
        CohortError, SurvivalSplitError: see `read_cohort`, `join_cohorts`, `read_folds`, `site_folds`.
    """
    parts = [read_cohort(path, name=source.name) for path in source.paths]
    cohort = parts[0] if len(parts) == 1 else join_cohorts(parts, names=[str(p.name) for p in source.paths])
    if source.splits is not None:
        return cohort, tuple(read_folds(source.splits, cohort))
    return cohort, tuple(site_folds(cohort, folds=source.folds, seed=source.seed))


def join_cohorts(parts: list[Cohort], *, names: list[str]) -> Cohort:
    """Joins the patients of several cohorts; genes that not all of them have are left out.

    Args:
        parts: of one name and unit, such as COAD and READ.
        names: of their files, for messages.

    Raises:
        CohortError: a case in two of them, other units, or no gene in common although both have genes.
    """
    seen: dict[str, str] = {}
    for part, file in zip(parts, names, strict=True):
        for case in part.cases:
            if case in seen:
                raise CohortError(f"{part.name}: case {case} is both in {seen[case]} and in {file}")
            seen[case] = file
    units = {part.unit for part in parts}
    if len(units) > 1:
        raise CohortError(
            f"{parts[0].name}: times in {' and '.join(sorted(units))}; convert one of the tables"
        )
    owners: dict[str, int] = {}
    for number, part in enumerate(parts):
        for slides in part.slides.values():
            for slide in slides:
                if owners.setdefault(slide, number) != number:
                    raise CohortError(
                        f"{part.name}: slide {slide} is in {names[owners[slide]]} and {names[number]}"
                    )
    common = [c for c in parts[0].omics if all(c in part.omics.columns for part in parts[1:])]
    if not common and all(part.omics.shape[1] for part in parts):
        raise CohortError(
            f"{parts[0].name}: {' and '.join(names)} have no gene in common (columns that end in "
            f"{', '.join(OMICS)})"
        )
    return Cohort(
        name=parts[0].name,
        outcome=pd.concat([part.outcome for part in parts]),
        slides={case: slides for part in parts for case, slides in part.slides.items()},
        clinical=pd.concat([part.clinical for part in parts]),
        omics=pd.concat([part.omics[common] for part in parts]),
        unit=units.pop(),
    )


def lacking_omics(cohort: Cohort) -> list[str]:
    """Kinds of omics that a cohort has no column of, as `rnaseq`."""
    return [kind[1:] for kind in OMICS if not any(str(name).endswith(kind) for name in cohort.omics)]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Of the names, sizes and times of change of a folder's files: their bytes may be terabytes."""
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found = path.stat()
            entries.append(f"{path.relative_to(folder).as_posix()} {found.st_size} {found.st_mtime_ns}")
    return digest_of(*entries)


def digest_of(*parts: Any) -> str:
    """SHA-256 of plain values, as their JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _split_folder(splits: Path, name: str) -> Path:
    candidates = [
        splits / f"tcga_{name}",
        splits / name,
        splits / f"tcga_{name.lower()}",
        splits / name.lower(),
    ]
    for folder in (*candidates, splits):
        if any(folder.glob("splits_*.csv")):
            return folder
    raise SurvivalSplitError(
        f"{splits}: no folds of cohort {name!r}; expected splits_0.csv, splits_1.csv, ... there, in "
        f"{candidates[0].name} or in {candidates[1].name}"
    )
