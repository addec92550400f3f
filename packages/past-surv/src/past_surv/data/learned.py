"""Everything that is learned from data, from the training fold alone: intervals of time, and scaling."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from past_core.errors import PastError


class LearnedError(PastError, ValueError):
    """A training fold from which it cannot be learned."""


@dataclass(frozen=True, eq=False)
class TimeIntervals:
    """Intervals of follow-up, each with a like number of the training fold's deaths.

    Attributes:
        edges: `(K + 1,)` ascending; the outer ones are -inf and inf, so that any time has an interval.
    """

    edges: np.ndarray

    @classmethod
    def of(cls, time: np.ndarray, event: np.ndarray, *, intervals: int = 4) -> Self:
        """Learns the inner edges as quantiles of the times of those who died.

        Raises:
            LearnedError: too few distinct times of death.
        """
        died = np.asarray(time, np.float64)[np.asarray(event, bool)]
        inner = np.quantile(died, np.arange(1, intervals) / intervals) if len(died) else np.zeros(0)
        if len(np.unique(inner)) < intervals - 1:
            raise LearnedError(
                f"{len(died)} deaths at {len(np.unique(died))} distinct times do not make {intervals} "
                "intervals; take fewer"
            )
        return cls(np.concatenate([[-np.inf], inner, [np.inf]]))

    def __len__(self) -> int:
        return len(self.edges) - 1

    def of_times(self, time: np.ndarray) -> np.ndarray:
        """`(N,)` int64 interval of each time; a time on an edge belongs to the later one."""
        return np.searchsorted(self.edges[1:-1], np.asarray(time, np.float64), side="right").astype(np.int64)


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and deviation of columns, as measured on the training fold.

    Attributes:
        mean: by column.
        deviation: by column; 1 where a column does not vary.
    """

    mean: pd.Series
    deviation: pd.Series

    @classmethod
    def of(cls, table: pd.DataFrame) -> Self:
        """Learns from a table; missing values are left out.

        Raises:
            LearnedError: a column without any value.
        """
        empty = table.columns[table.isna().all()]
        if len(empty):
            raise LearnedError(f"column {empty[0]} has no value in the training fold; leave it out")
        deviation = table.std(ddof=0)
        return cls(table.mean(), deviation.where(deviation > 0, 1.0))

    def __call__(self, table: pd.DataFrame) -> pd.DataFrame:
        """Scales the same columns of any table; a missing value becomes 0, the training fold's mean."""
        return ((table[self.mean.index] - self.mean) / self.deviation).fillna(0.0)
