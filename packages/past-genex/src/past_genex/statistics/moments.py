"""Sufficient statistics of a linear probe: counts, means and centred co-moments."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from past_core.errors import PastError

CHUNK = 8192
"""Cells that are brought to float64 at a time: 64 MiB of embeddings 1,024 wide."""


class MomentsError(PastError, ValueError):
    """Embeddings or expression that no statistics can be made of, or statistics that do not fit together."""


@dataclass(frozen=True)
class Moments:
    """All that ridge regression of any strength, and Pearson's r of any linear model, need of a set of cells.

    Everything is float64. Sets without a cell in common are merged exactly (Chan, Golub & LeVeque 1983,
    "Algorithms for computing the sample variance"), and merging only ever adds: there is no `subtract`, for
    taking a part away from a sum that it dominates leaves the rounding errors of the sum where the digits
    were.

    Attributes:
        n: number of cells.
        mean_x: `(d,)` mean embedding.
        mean_y: `(G,)` mean expression.
        xx: `(d, d)` sum of products of deviations of the embedding, symmetric.
        xy: `(d, G)` of embedding and expression.
        yy: `(G,)` sum of squared deviations of the expression.
    """

    n: float
    mean_x: np.ndarray
    mean_y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def empty(cls, d: int, genes: int) -> Self:
        """Statistics of no cell."""
        return cls(0.0, np.zeros(d), np.zeros(genes), np.zeros((d, d)), np.zeros((d, genes)), np.zeros(genes))

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, *, chunk: int = CHUNK) -> Self:
        """Statistics of cells: means in a first pass, products of deviations in a second.

        Args:
            x: `(N, d)` embeddings, of any float type; brought to float64 chunk by chunk.
            y: `(N, G)` expression.
            chunk: cells at a time.

        Raises:
            MomentsError: different numbers of cells, or a value that is not finite (the row is named).
        """
        x, y = np.asarray(x), np.asarray(y)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise MomentsError(
                f"embeddings of shape {x.shape} and expression of shape {y.shape}; expected (N, d) and (N, G)"
            )
        n, d, genes = len(x), x.shape[1], y.shape[1]
        if not n:
            return cls.empty(d, genes)
        spans = [slice(start, start + chunk) for start in range(0, n, chunk)]
        for what, values in (("embedding", x), ("expression", y)):
            for span in spans:
                require_finite(values[span], what, range(n)[span])
        mean_x = sum(x[span].sum(axis=0, dtype=np.float64) for span in spans) / n
        mean_y = sum(y[span].sum(axis=0, dtype=np.float64) for span in spans) / n
        xx, xy, yy = np.zeros((d, d)), np.zeros((d, genes)), np.zeros(genes)
        rest_x, rest_y = np.zeros(d), np.zeros(genes)
        for span in spans:
            dx, dy = x[span] - mean_x, y[span] - mean_y
            xx += dx.T @ dx  # numpy calls syrk where a matrix meets its own transpose
            xy += dx.T @ dy
            yy += np.einsum("ng,ng->g", dy, dy)
            rest_x += dx.sum(axis=0)
            rest_y += dy.sum(axis=0)
        # The deviations would sum to zero if the means were exact: what they sum to corrects the products.
        xx -= np.outer(rest_x, rest_x) / n
        xy -= np.outer(rest_x, rest_y) / n
        yy = np.maximum(yy - rest_y**2 / n, 0.0)
        return cls(float(n), mean_x + rest_x / n, mean_y + rest_y / n, xx, xy, yy)

    @property
    def d(self) -> int:
        """Length of the embedding."""
        return len(self.mean_x)

    @property
    def n_genes(self) -> int:
        """G."""
        return len(self.mean_y)

    def merge(self, other: "Moments") -> Self:
        """Statistics of both sets of cells together.

        Raises:
            MomentsError: another length of the embedding or number of genes.
        """
        _require_alike([self, other])
        if not other.n:
            return self
        if not self.n:
            return replace(
                self, **{name: getattr(other, name) for name in ("n", "mean_x", "mean_y", "xx", "xy", "yy")}
            )
        n = self.n + other.n
        share, weight = other.n / n, self.n * other.n / n
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        scaled = weight * dx
        xx = np.multiply.outer(scaled, dx)
        xx += self.xx
        xx += other.xx
        xy = np.multiply.outer(scaled, dy)
        xy += self.xy
        xy += other.xy
        return type(self)(
            n,
            self.mean_x + share * dx,
            self.mean_y + share * dy,
            (xx + xx.T) / 2,  # (w a_i) a_j and (w a_j) a_i may differ in the last bit
            xy,
            self.yy + other.yy + weight * dy**2,
        )

    def select(self, columns: np.ndarray | Sequence[int] | slice) -> Self:
        """Statistics of some genes; `xx` is shared, not copied."""
        if isinstance(columns, slice) and columns == slice(None):
            return self
        return replace(
            self, mean_y=self.mean_y[columns], xy=np.asarray(self.xy)[:, columns], yy=self.yy[columns]
        )


def merge_moments(parts: Iterable[Moments]) -> Moments:
    """Statistics of many sets of cells together, in one go: about their common mean, not pair by pair.

    Args:
        parts: at least one; arrays may be memory-mapped, they are read one part at a time.

    Raises:
        MomentsError: no part, or parts that do not fit together.
    """
    parts = list(parts)
    if not parts:
        raise MomentsError("no statistics to merge; choose at least one part or slide")
    _require_alike(parts)
    first, parts = parts[0], [part for part in parts if part.n]
    if len(parts) < 2:
        return parts[0] if parts else first
    counts = np.array([part.n for part in parts])
    n = counts.sum()
    means_x, means_y = np.stack([p.mean_x for p in parts]), np.stack([p.mean_y for p in parts])
    mean_x, mean_y = counts @ means_x / n, counts @ means_y / n
    root = np.sqrt(counts)[:, None]
    dx, dy = root * (means_x - mean_x), root * (means_y - mean_y)
    xx, xy, yy = dx.T @ dx, dx.T @ dy, np.einsum("ug,ug->g", dy, dy)
    for part in parts:
        xx += part.xx
        xy += part.xy
        yy += part.yy
    return Moments(float(n), mean_x, mean_y, xx, xy, yy)


def leave_one_out_merges(parts: Sequence[Moments]) -> Iterator[Moments]:
    """For each part the statistics of all others, with 3 merges a part instead of one for each other part.

    What comes before a part is carried along, what comes after it is merged from the end and kept. (Taking
    the part away from the sum of all would need one merge, and loses digits; see `Moments`.)

    Args:
        parts: n sets of cells; n statistics are in memory meanwhile.

    Yields:
        n statistics, in order; of one single part those of no cell.
    """
    parts = list(parts)
    if not parts:
        return
    nothing = Moments.empty(parts[0].d, parts[0].n_genes)
    after = [nothing]
    for part in reversed(parts[1:]):
        after.append(part.merge(after[-1]))
    before = nothing
    for part in parts:
        yield before.merge(after.pop())
        before = before.merge(part)


def require_finite(values: np.ndarray, what: str, rows: Sequence[int]) -> None:
    """Refuses a value that is NaN or infinite, naming its row.

    Raises:
        MomentsError: there is one.
    """
    if np.isfinite(values).all():
        return
    row, column = np.argwhere(~np.isfinite(values))[0]
    raise MomentsError(
        f"{what} of row {rows[int(row)]} is {values[row, column]} in column {column}; expected finite numbers"
    )


def _require_alike(parts: Sequence[Moments]) -> None:
    shapes = {(part.d, part.n_genes) for part in parts}
    if len(shapes) > 1:
        found = ", ".join(f"{d} x {genes}" for d, genes in sorted(shapes))
        raise MomentsError(
            f"statistics of different embeddings or genes (dimensions x genes: {found}) cannot be merged"
        )
