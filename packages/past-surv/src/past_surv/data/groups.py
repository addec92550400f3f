"""Named groups of genes, and the columns of a cohort that belong to each."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from past_core.foreign.errors import ForeignError
from past_core.foreign.tables import read_csv
from past_surv.data.cohort import OMICS, Cohort, CohortError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GeneGroup:
    """One group of genes of one cohort.

    Attributes:
        name: of the group.
        columns: of the cohort's omics, sorted.
        absent: symbols of the group without any column.
    """

    name: str
    columns: tuple[str, ...]
    absent: tuple[str, ...] = ()


def read_groups(path: str | Path) -> dict[str, list[str]]:
    """Reads a CSV whose columns are groups of gene symbols, as MCAT's `signatures.csv`.

    Raises:
        CohortError: no such file, or a group without genes.
    """
    path = Path(path)
    if not path.exists():
        raise CohortError(f"{path}: no such file of gene groups; expected a CSV with a column a group")
    try:
        table = read_csv(path, dtype=str)
    except (ForeignError, OSError) as error:
        raise CohortError(f"{path}: not a readable CSV of gene groups ({error})") from error
    groups = {str(name): sorted(set(table[name].dropna().str.strip()) - {""}) for name in table}
    empty = [name for name, genes in groups.items() if not genes]
    if empty or not groups:
        raise CohortError(f"{path}: {'no groups' if not groups else f'group {empty[0]!r} has no genes'}")
    return groups


def group_columns(
    cohort: Cohort, groups: Mapping[str, Sequence[str]], *, kinds: Sequence[str] = OMICS
) -> list[GeneGroup]:
    """The columns of each group that the cohort has; a group without any is left out, and logged.

    Args:
        cohort: the cohort.
        groups: symbols by group; groups may overlap.
        kinds: endings of the columns to use.

    Raises:
        CohortError: no group has a column.
    """
    known = set(cohort.omics.columns)
    made = []
    for name, genes in groups.items():
        columns = sorted({f"{gene}{kind}" for gene in genes for kind in kinds} & known)
        if not columns:
            logger.warning("%s: group %r has none of its %d genes here", cohort.name, name, len(genes))
            continue
        found = {column.rsplit("_", 1)[0] for column in columns}
        absent = tuple(gene for gene in genes if gene not in found)
        made.append(GeneGroup(name=name, columns=tuple(columns), absent=absent))
    if not made:
        raise CohortError(
            f"{cohort.name}: none of {len(groups)} groups has a gene here ({cohort.omics.shape[1]} columns); "
            "the columns must be SYMBOL_rnaseq, SYMBOL_cnv or SYMBOL_mut"
        )
    return made
