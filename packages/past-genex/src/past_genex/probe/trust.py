"""How far each gene's predictions may be trusted: the held-out r that a probe carries with it."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from past_core.errors import PastError

DEFAULT_THRESHOLD = 0.1
"""Genes with a held-out r below are flagged where no other threshold is given."""


class TrustError(PastError, ValueError):
    """A table of trust that does not fit its probe, or cannot be."""


@dataclass(frozen=True, eq=False)
class Trust:
    """Held-out Pearson's r of every gene.

    Attributes:
        r: `(G,)` float64 held-out r; NaN where the gene was never scored (not measured on a held-out slide,
            or constant there).
        low: `(G,)` lower end of its confidence interval; NaN where there is none, as with a single patient.
        high: `(G,)` upper end.
        patients: `(G,)` int64 held-out patients that the gene was scored on.
        setting: what was held out, such as "inter" or "inter: breast, P3".
    """

    r: np.ndarray
    low: np.ndarray
    high: np.ndarray
    patients: np.ndarray
    setting: str

    def __post_init__(self) -> None:
        for name in ("r", "low", "high"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        object.__setattr__(self, "patients", np.asarray(self.patients, np.int64))
        shapes = {f.name: getattr(self, f.name).shape for f in fields(self) if f.name != "setting"}
        if self.r.ndim != 1 or len(set(shapes.values())) > 1:
            raise TrustError(
                f"a table of trust needs one value a gene in every column; the shapes are {shapes}"
            )
        scored = self.r[~np.isnan(self.r)]
        if len(scored) and not (np.abs(scored) <= 1).all():
            raise TrustError(f"held-out r goes from {scored.min():g} to {scored.max():g}; expected -1 to 1")
        with np.errstate(invalid="ignore"):
            crossed = np.flatnonzero((self.low > self.high) | (self.patients < 0))
        if len(crossed):
            raise TrustError(
                f"gene {crossed[0]} of the table has the interval {self.low[crossed[0]]:g} to "
                f"{self.high[crossed[0]]:g} over {self.patients[crossed[0]]} patients"
            )

    @classmethod
    def unknown(cls, genes: int) -> Self:
        """The table of a probe that nothing was held out for."""
        nothing = np.full(genes, np.nan)
        return cls(nothing, nothing, nothing, np.zeros(genes, np.int64), "nothing held out")

    def __len__(self) -> int:
        return len(self.r)

    def trusted(self, threshold: float = DEFAULT_THRESHOLD) -> np.ndarray:
        """Genes to rely on.

        Those whose held-out r reaches the threshold, and whose interval, where there is one, excludes 0.
        A gene that was never scored is not among them.

        Args:
            threshold: least r, -1 to 1.

        Returns:
            `(G,)` bool.

        Raises:
            TrustError: a threshold that no r can be compared with.
        """
        if not -1 <= threshold <= 1:
            raise TrustError(f"a threshold of {threshold} for held-out r; expected -1 to 1")
        with np.errstate(invalid="ignore"):
            return (self.r >= threshold) & ~(self.low <= 0)
