"""Which cells a matrix has: cohorts × encoders × systems × folds × seeds, each system with what it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from past_surv.evaluation.building import SystemNeeds, needs_of
from past_surv.evaluation.cells import NO_ENCODER, Cell
from past_surv.evaluation.sources import (
    NAME,
    CohortSource,
    SourceError,
    file_digest,
    folder_digest,
    lacking_omics,
    load,
)

FLOOR = "cox-age-sex"
"""The clinical floor, which stands in every table whose cohorts have age and sex."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What is to be run.

    Attributes:
        cohorts: by their files.
        systems: names in the registry.
        encoders: name to folder of bags.
        groups: file of named groups of genes.
        vectors: file of one vector a patient, of PAST-multi.
        seeds: how many seeds, from 0 on, for systems that draw.
        options: of systems, by system.
    """

    cohorts: Sequence[CohortSource]
    systems: Sequence[str]
    encoders: Mapping[str, Path] = field(default_factory=dict)
    groups: Path | None = None
    vectors: Path | None = None
    seeds: int = 1
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A matrix's cells.

    Attributes:
        cells: in the order of computing.
        notes: what is left out or lacking, in words.
    """

    cells: list[Cell]
    notes: list[str]


def plan_of(matrix: Matrix) -> Plan:
    """The cells of a matrix; systems that a cohort cannot serve are left out and noted.

    Raises:
        SourceError: nothing to run, a name twice, no such file or folder, or a system whose input was not
            given.
        PastError: cohorts or folds that cannot be read.
    """
    _check_names([source.name for source in matrix.cohorts], "cohort")
    _check_names(list(matrix.encoders), "encoder")
    digests = _digests(matrix)
    systems, notes = _with_floor(matrix.systems)
    needs = {name: needs_of(name) for name in systems}
    for name, need in needs.items():
        _check_inputs(name, need, matrix)
    cells: list[Cell] = []
    for source in matrix.cohorts:
        cohort, folds = load(source)
        lacks = lacking_omics(cohort)
        if lacks and len(lacks) < 3:
            notes.append(f"{source.name}: its genes hold no {' and no '.join(lacks)}")
        for name, need in needs.items():
            problem = need.problem(cohort)
            if problem:
                notes.append(f"{source.name}: {name} is left out: {problem}")
                continue
            inputs = {what: getattr(matrix, what) for what in need.files if getattr(matrix, what) is not None}
            encoders = matrix.encoders if need.bags else {NO_ENCODER: None}
            for encoder, folder in encoders.items():
                own = inputs if folder is None else {**inputs, "bags": folder}
                cells += [
                    Cell(
                        cohort=source,
                        encoder=encoder,
                        system=name,
                        fold=number,
                        seed=seed,
                        inputs=own,
                        digests={what: digests[str(path)] for what, path in own.items()},
                        options=dict(matrix.options.get(name, {})),
                    )
                    for seed in range(matrix.seeds if need.seeded else 1)
                    for number in range(len(folds))
                ]
    if not cells:
        raise SourceError(f"nothing to run: {'; '.join(notes) or 'no cohort and no system'}")
    return Plan(cells=cells, notes=notes)


def _with_floor(systems: Sequence[str]) -> tuple[list[str], list[str]]:
    systems = list(dict.fromkeys(systems))
    if FLOOR in systems:
        return systems, []
    return [FLOOR, *systems], [f"{FLOOR} was added: a slide or a gene has to beat age and sex"]


def _check_names(names: Sequence[str], what: str) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise SourceError(f"{what} {name!r}; expected letters, digits and _.+-")
        if list(names).count(name) > 1:
            raise SourceError(f"two {what}s are called {name!r}; name one otherwise, as NAME=PATH")
        if what == "encoder" and name == NO_ENCODER:
            raise SourceError(f"an encoder cannot be called {name!r}: that stands for systems without slides")


def _check_inputs(name: str, need: SystemNeeds, matrix: Matrix) -> None:
    if need.bags and not matrix.encoders:
        raise SourceError(f"{name} reads slides; give --encoders NAME=FOLDER with bags from `past bags`")
    if "vectors" in need.files and matrix.vectors is None:
        raise SourceError(f"{name} reads a vector a patient; give --vectors FILE from `past vectors`")
    if need.grouped and matrix.groups is None:
        raise SourceError(
            f"{name} reads named groups of genes; give --groups FILE, a column of symbols a group"
        )


def _digests(matrix: Matrix) -> dict[str, str]:
    digests = {}
    for what in ("groups", "vectors"):
        path = getattr(matrix, what)
        if path is not None:
            if not Path(path).is_file():
                raise SourceError(f"{path}: no such file (--{what})")
            digests[str(path)] = file_digest(Path(path))
    for name, folder in matrix.encoders.items():
        if not Path(folder).is_dir():
            raise SourceError(f"{folder}: no such folder of bags (--encoders {name}=...)")
        digests[str(folder)] = folder_digest(Path(folder))
    return digests
