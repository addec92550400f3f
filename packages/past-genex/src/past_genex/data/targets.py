"""What is predicted: counts on a scale that is named in every result."""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from scipy import sparse

from past_core.errors import PastError

Normalisation = Literal["median", "10k", "none"]


class TargetError(PastError, ValueError):
    """Counts that cannot be put on the asked scale."""


@dataclass(frozen=True)
class Target:
    """log1p of counts, normalised per cell.

    Args:
        normalisation: "median" scales every cell to the slide's median total, "10k" to 10,000, "none" leaves
            raw counts (as HEST-Bench has it).

    Raises:
        TargetError: another normalisation.
    """

    normalisation: Normalisation = "median"

    def __post_init__(self) -> None:
        if self.normalisation not in get_args(Normalisation):
            raise TargetError(
                f"normalisation {self.normalisation!r}; expected one of {', '.join(get_args(Normalisation))}"
            )

    @classmethod
    def named(cls, normalisation: str) -> Self:
        """Of a normalisation that a file or a command line names, which is checked.

        Raises:
            TargetError: another normalisation.
        """
        known: Any = normalisation
        return cls(known)

    @property
    def name(self) -> str:
        """How results name it, such as `log1p(counts / total x median total)`."""
        return {
            "median": "log1p(counts / total x the slide's median total)",
            "10k": "log1p(counts / total x 10,000)",
            "none": "log1p(counts)",
        }[self.normalisation]

    def scale(self, totals: np.ndarray) -> float | None:
        """The total that every cell of a slide is brought to; None where counts stay as they are.

        Args:
            totals: `(N,)` counts of every used cell over all genes of its panel, positive.

        Raises:
            TargetError: no cell, or a cell without a count.
        """
        if not len(totals) or np.min(totals) <= 0:
            empty = int(np.count_nonzero(np.asarray(totals) <= 0))
            raise TargetError(
                f"{empty} of {len(totals)} cells have no count; leave them out, they have no expression"
            )
        return {"median": float(np.median(totals)), "10k": 1e4, "none": None}[self.normalisation]

    def __call__(self, counts: sparse.csr_matrix, totals: np.ndarray, scale: float | None) -> np.ndarray:
        """The target of some cells and genes.

        Args:
            counts: `(n, G)` raw counts.
            totals: `(n,)` counts of these cells over all genes of the panel, positive.
            scale: of the slide, see `scale`.

        Returns:
            `(n, G)` float64, dense.
        """
        dense = counts.toarray().astype(np.float64)
        if scale is not None:
            dense *= (scale / np.asarray(totals, np.float64))[:, None]
        return np.log1p(dense, out=dense)
