"""Systems of a matrix: what each reads, whether a cohort has it, and how it is made from files."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from past_core.errors import PastError
from past_surv.data.cohort import Cohort
from past_surv.data.groups import read_groups
from past_surv.systems.base import SurvivalSystem

if TYPE_CHECKING:
    import pandas as pd

    from past_surv.evaluation.cells import Cell

CLINICAL = ("age", "is_female")
"""Columns of the clinical floor."""


class VectorsError(PastError, ValueError):
    """A table of vectors that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class SystemNeeds:
    """What a system reads.

    Attributes:
        clinical: age and sex.
        omics: genes of the cohort.
        bags: patches of the slides, of an encoder.
        files: names of files it is made of, besides bags.
    """

    clinical: bool
    omics: bool
    bags: bool
    files: tuple[str, ...]

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
        clinical="clinical" in needs, omics="omics" in needs, bags="bags" in needs, files=files
    )


def build(cell: "Cell") -> SurvivalSystem:
    """The cell's system, from its files.

    Raises:
        UnknownSystemError, CohortError, BagError, VectorsError: see there.
    """
    from past_surv.systems.registry import make_system

    given: dict[str, Any] = dict(cell.options)
    if "groups" in cell.inputs:
        given["groups"] = read_groups(cell.inputs["groups"])
    if "bags" in cell.inputs:
        from past_surv.data.bags import BagFolder

        given["bags"] = BagFolder(cell.inputs["bags"])
    if "vectors" in cell.inputs:
        given["vectors"] = read_vectors(cell.inputs["vectors"], cell.digests["vectors"])
    return make_system(cell.system, **given)


@lru_cache(maxsize=2)
def read_vectors(path: Path, digest: str) -> "pd.DataFrame":
    """One vector a patient, by case id, from the Parquet file of `past vectors`, or a CSV with case_id.

    Args:
        path: of the file.
        digest: of its content, by which it is kept in memory.

    Raises:
        VectorsError: not such a table, no case ids, a case twice, or columns that are no numbers.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"case_id": str}) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError, ImportError) as error:
        raise VectorsError(f"{path}: not a readable table of vectors ({error})") from error
    if "case_id" in table:
        table = table.set_index("case_id")
    if table.index.name != "case_id":
        raise VectorsError(f"{path}: no case_id; expected one row a patient, as `past vectors` writes")
    table.index = table.index.astype(str)
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise VectorsError(f"{path}: case {twice[0]} comes twice; expected one vector a patient")
    words = table.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]]
    if len(words) or not table.shape[1]:
        raise VectorsError(f"{path}: {f'column {words[0]} is' if len(words) else 'there are'} no numbers")
    return table
