"""What an exported network reads of patients: their genes by its own groups, scaled as in its training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from past_core.errors import PastError
from past_surv.data.learned import Scaling

if TYPE_CHECKING:
    from past_surv.data.cohort import Cohort


class ModelInputError(PastError, ValueError):
    """Patients, genes or patches that do not fit a network."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GeneInputs:
    """Genes of N patients.

    Attributes:
        names: of the G groups.
        columns: of each group.
        omics: G tensors `(N, g)` float32, scaled; zeros, the training patients' mean, where missing.
        missing: `(N, G)` bool, True where a patient has no value of a group.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    omics: tuple[Tensor, ...]
    missing: Tensor


def gene_inputs(
    manifest: Mapping[str, Any],
    cohort: "Cohort",
    rows: np.ndarray,
    *,
    vectors: pd.DataFrame | None = None,
) -> GeneInputs:
    """Reads the groups of an exported network from a cohort; nothing is learned here.

    Args:
        manifest: of the network.
        cohort: with the columns of its groups.
        rows: of the cohort, N of them.
        vectors: one a patient, by case id, for a network that has them as its last group.

    Raises:
        ModelInputError: columns that the cohort lacks, vectors that are not given or are of another length.
    """
    names, own = tuple(manifest["group_names"]), len(manifest["group_names"])
    genes = own - bool(manifest.get("vectors"))
    cases, tables = cohort.cases[rows], []
    for number in range(own):
        columns = list(manifest["group_columns"][number])
        if number < genes:
            source, where = cohort.omics, f"the table of {cohort.name}"
        elif vectors is None:
            raise ModelInputError(
                f"the network reads one vector a patient ({len(columns)} wide); give the file of `past "
                "vectors` that it was trained with, or one made in the same way"
            )
        else:
            source, where = vectors, "the file of vectors"
        lacks = [column for column in columns if column not in source]
        if lacks:
            more = f" and {len(lacks) - 3} more" if len(lacks) > 3 else ""
            raise ModelInputError(
                f"{where} lacks {', '.join(lacks[:3])}{more} of the {len(columns)} columns of group "
                f"{names[number]!r}; the network was trained on {manifest.get('cohort')}, give a table with "
                "the same columns"
            )
        table = source[columns]
        tables.append((table.iloc[rows] if number < genes else table.reindex(cases)).set_axis(cases))
    omics = tuple(
        torch.from_numpy(_scaling(manifest, number)(table).to_numpy(np.float32))
        for number, table in enumerate(tables)
    )
    missing = np.stack([table.isna().all(axis=1).to_numpy() for table in tables], axis=1)
    return GeneInputs(
        names=names,
        columns=tuple(tuple(columns) for columns in manifest["group_columns"]),
        omics=omics,
        missing=torch.from_numpy(missing),
    )


def _scaling(manifest: Mapping[str, Any], number: int) -> Scaling:
    columns, said = manifest["group_columns"][number], manifest["scalings"][number]
    return Scaling(
        mean=pd.Series(said["mean"], columns, dtype=np.float64),
        deviation=pd.Series(said["deviation"], columns, dtype=np.float64),
    )


def first_columns(columns: tuple[tuple[str, ...], ...]) -> list[int]:
    """Where, in all groups side by side, each column stands first: what the SNN reads, for groups overlap."""
    return np.sort(np.unique([name for names in columns for name in names], return_index=True)[1]).tolist()
