"""Systems of a matrix: what each reads, whether a cohort has it, and how it is made from files."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from past_surv.data.cohort import Cohort
from past_surv.data.groups import read_groups
from past_surv.systems.base import SurvivalSystem

if TYPE_CHECKING:
    import pandas as pd

    from past_surv.evaluation.cells import Cell

CLINICAL = ("age", "is_female")
"""Columns of the clinical floor."""


@dataclass(frozen=True, kw_only=True)
class SystemNeeds:
    """What a system reads.

    Attributes:
        clinical: age and sex.
        omics: genes of the cohort.
        bags: patches of the slides, of an encoder.
        files: names of files it is made of, besides bags.
        grouped: whether it reads genes as named groups, and nothing without them.
    """

    clinical: bool
    omics: bool
    bags: bool
    files: tuple[str, ...]
    grouped: bool

    @property
    def seeded(self) -> bool:
        """Whether anything is drawn at random; Cox's model on clinical columns draws nothing."""
        return self.omics or self.bags

    def problem(self, cohort: Cohort) -> str | None:
        """Why a cohort cannot serve it; None where it can."""
        absent = [name for name in CLINICAL if name not in cohort.clinical] if self.clinical else []
        if absent:
            return f"the cohort has no column {' and no column '.join(absent)}"
        if self.omics and not cohort.omics.shape[1]:
            return "the cohort has no columns of genes"
        return None


def needs_of(name: str) -> SystemNeeds:
    """What a system of the registry reads.

    Raises:
        UnknownSystemError: no such system.
    """
    from past_surv.systems.registry import entry

    needs = entry(name).needs
    files = tuple(what for what, of in (("groups", "omics"), ("vectors", "vectors")) if of in needs)
    return SystemNeeds(
        clinical="clinical" in needs,
        omics="omics" in needs,
        bags="bags" in needs,
        files=files,
        grouped={"omics", "bags"} <= set(needs) and "vectors" not in needs,
    )


def build(cell: "Cell") -> SurvivalSystem:
    """The cell's system, from its files.

    Raises:
        UnknownSystemError, CohortError, BagError, VectorError: see there.
    """
    from past_surv.systems.registry import make_system

    given: dict[str, Any] = dict(cell.options)
    if "groups" in cell.inputs:
        given["groups"] = read_groups(cell.inputs["groups"])
    if "bags" in cell.inputs:
        from past_surv.data.bags import BagFolder

        given["bags"] = BagFolder(cell.inputs["bags"])
    if "vectors" in cell.inputs:
        given["vectors"] = _vectors(cell.inputs["vectors"], cell.digests["vectors"])
    return make_system(cell.system, **given)


@lru_cache(maxsize=2)
def _vectors(path: Path, digest: str) -> "pd.DataFrame":
    """Vectors of a file, kept in memory by its content."""
    from past_surv.data.vector_files import read_vectors

    return read_vectors(path)
