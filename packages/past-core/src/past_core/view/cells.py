"""The cells of a store as the page asks for them: by place, by id, by gene."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.ingest.store import SlideStore
from past_core.view.cache import Cache
from past_core.view.outlines import CELLS, NUCLEI, Outlines, read_outlines

NORMALISED_TO = 10_000
TOP_GENES = 10
RANGE_QUANTILE = 0.99
"""Of the cells that express a gene: where its colours end, so that one cell does not darken all others."""
NEAR_UM = 3.0
"""How far beside its centre a click may be on a cell that has no outline."""
_HIDDEN = {"cell_id", "region", "qc_pass", "qc_reason"}
_KNOWN = {"cell_area_um2", "nucleus_area_um2", "n_counts", "n_genes"}

T = TypeVar("T")


class CellNotFoundError(PastError, LookupError):
    """The slide has no such cell."""


class GeneNotFoundError(PastError, LookupError):
    """The slide has no such gene."""


@dataclass(frozen=True)
class Gene:
    """A gene's expression: log1p of counts normalised to 10,000 a cell.

    Attributes:
        values: (n_cells,) float32; 0 for a cell without any counts.
        top: the value at the end of the colours.
        expressing: cells with at least one count.
    """

    values: np.ndarray
    top: float
    expressing: int


class Cells:
    """What is asked about a store's cells; each part is read when first asked for, by one thread.

    Args:
        store: the slide.
    """

    def __init__(self, store: SlideStore) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._genes: Cache[Gene] = Cache(2**28, lambda gene: gene.values.nbytes)  # noqa: PD011

    def _once(self, read: Callable[[], T]) -> T:
        # Cached properties do not lock: two threads would read, and hold, the same table twice.
        with self._lock:
            return read()

    @cached_property
    def _cell_outlines(self) -> Outlines | None:
        return read_outlines(self.store, CELLS)

    @cached_property
    def _nucleus_outlines(self) -> Outlines | None:
        return read_outlines(self.store, NUCLEI)

    @property
    def outlines(self) -> Outlines | None:
        """Of the cells, where the store has them."""
        return self._once(lambda: self._cell_outlines)

    @property
    def nuclei(self) -> Outlines | None:
        """Outlines of the nuclei, where the store has them."""
        return self._once(lambda: self._nucleus_outlines)

    def has(self, element: str) -> bool:
        """Whether the store has outlines of that name, without reading them."""
        return (self.store.path / "shapes" / element / "shapes.parquet").is_file()

    @property
    def centroids(self) -> np.ndarray:
        """(n_cells, 2) x, y in level-0 pixels."""
        return self._once(lambda: self.store.centroids)

    # --- quality --------------------------------------------------------------------------------------------

    @cached_property
    def _quality(self) -> tuple[list[str], np.ndarray, list[int]]:
        obs = self.store.obs
        given = obs["qc_reason"].astype(str) if "qc_reason" in obs else pd.Series("", index=obs.index)
        texts, codes = np.unique(given.to_numpy(str), return_inverse=True)
        parts = [[part for part in text.split(";") if part] for text in texts]
        reasons = sorted({part for entry in parts for part in entry})
        per_text = np.bincount(codes, minlength=len(texts))
        counts = [int(sum(per_text[k] for k, entry in enumerate(parts) if r in entry)) for r in reasons]
        first = np.array([reasons.index(entry[0]) if entry else -1 for entry in parts], np.int64)[codes]
        silent = (first < 0) & ~self.store.passed
        if silent.any():
            counts.append(int(silent.sum()))
            first[silent] = len(reasons)
            reasons.append("no reason given")
        return reasons, first, counts

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why cells fail QC, in alphabetical order, and how many; a cell with two reasons counts twice."""
        names, _, counts = self._once(lambda: self._quality)
        return list(zip(names, counts, strict=True))

    @property
    def reason(self) -> np.ndarray:
        """(n_cells,) int64, each cell's first reason as an index into `reasons`; -1 where it passes."""
        return self._once(lambda: self._quality)[1]

    # --- cells ----------------------------------------------------------------------------------------------

    def at(self, x: float, y: float) -> int | None:
        """The row of the cell whose outline contains a point; of several, the one with the nearest centre.

        Args:
            x: in level-0 pixels.
            y: likewise.
        """
        outlines, centroids = self.outlines, self.centroids
        if outlines is not None:
            rows = outlines.owner[outlines.containing(x, y)]
            if not len(rows):
                return None
        else:
            rows = np.flatnonzero(np.abs(centroids - [x, y]).max(axis=1) <= NEAR_UM / self.store.mpp)
        if not len(rows):
            return None
        return int(rows[np.argmin(np.hypot(*(centroids[rows] - [x, y]).T))])

    def find(self, cell_id: str) -> int:
        """The row of a cell.

        Raises:
            CellNotFoundError: There is none of that id.
        """
        found = self._once(lambda: self._rows).get(cell_id)
        if found is None:
            raise CellNotFoundError(f"no cell {cell_id!r} in {self.store.name}")
        return found

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.store.cell_ids.tolist())}

    def describe(self, row: int) -> dict[str, Any]:
        """What the panel shows of a cell, in JSON's types: distances in µm, outlines in level-0 pixels."""
        obs = self._once(lambda: self.store.obs).iloc[row]
        x, y = (float(value) for value in self.centroids[row])
        counts = self._once(lambda: self.store.counts)
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        genes, numbers = counts.indices[part], counts.data[part]
        top = np.lexsort((genes, -numbers.astype(np.int64)))[:TOP_GENES]
        symbols = self._symbols
        outlines = {"cell": self.outlines, "nucleus": self.nuclei}
        return {
            "id": str(obs.name),
            "x": x,
            "y": y,
            "x_um": x * self.store.mpp,
            "y_um": y * self.store.mpp,
            "cell_area_um2": _plain(obs.get("cell_area_um2")),
            "nucleus_area_um2": _plain(obs.get("nucleus_area_um2")),
            "counts": int(numbers.sum()),
            "genes": int((numbers > 0).sum()),
            "passed": bool(obs["qc_pass"]),
            "reasons": [part for part in str(obs.get("qc_reason", "")).split(";") if part],
            "top_genes": [
                {"symbol": symbols[genes[k]], "count": int(numbers[k])} for k in top if numbers[k] > 0
            ],
            "more": {
                str(name): value
                for name, value in ((name, _plain(obs[name])) for name in obs.index)
                if name not in _HIDDEN | _KNOWN and value is not None
            },
            "outlines": {
                name: [shape.polygon(int(n)).round(2).tolist() for n in np.flatnonzero(shape.owner == row)]
                for name, shape in outlines.items()
                if shape is not None
            },
        }

    # --- genes ----------------------------------------------------------------------------------------------

    @cached_property
    def _symbol_list(self) -> list[str]:
        return [str(symbol) for symbol in self.store.genes["symbol"]]

    @property
    def _symbols(self) -> list[str]:
        return self._once(lambda: self._symbol_list)

    @property
    def _ids(self) -> list[str]:
        return self._once(lambda: [str(name) for name in self.store.genes.index])

    def search(self, text: str, *, limit: int = 20) -> list[dict[str, str]]:
        """Genes whose symbol or id begins with a text, then those that contain it, whatever the case."""
        wanted = text.strip().casefold()
        found: list[tuple[int, str, int]] = []
        for number, (symbol, name) in enumerate(zip(self._symbols, self._ids, strict=True)):
            texts = (symbol.casefold(), name.casefold())
            if any(wanted in entry for entry in texts):
                rank = 0 if wanted in texts else 1 if texts[0].startswith(wanted) else 2
                found.append((rank, texts[0], number))
        return [
            {"id": self._ids[number], "symbol": self._symbols[number]}
            for _, _, number in sorted(found)[:limit]
        ]

    def gene_number(self, name: str) -> int:
        """The column of a gene, given its id or symbol.

        Raises:
            GeneNotFoundError: The panel lacks it.
        """
        for names in (self._ids, self._symbols):
            if name in names:
                return names.index(name)
        raise GeneNotFoundError(f"no gene {name!r} in {self.store.name}")

    def gene_names(self, number: int) -> tuple[str, str]:
        """The id and the symbol of a column."""
        return self._ids[number], self._symbols[number]

    def gene(self, number: int) -> Gene:
        """The expression of a column's gene in every cell."""
        return self._genes.get(number, lambda: self._expression(number))

    @cached_property
    def _totals(self) -> np.ndarray:
        return np.asarray(self.store.counts.sum(axis=1, dtype=np.int64)).ravel()

    def _expression(self, number: int) -> Gene:
        counts, totals = self._once(lambda: (self.store.counts, self._totals))
        place = np.flatnonzero(counts.indices == number)
        rows = np.searchsorted(counts.indptr, place, side="right") - 1
        values = np.zeros(counts.shape[0], np.float32)
        values[rows] = np.log1p(counts.data[place] * (NORMALISED_TO / np.maximum(totals[rows], 1)))
        positive = values[values > 0]
        top = float(np.quantile(positive, RANGE_QUANTILE)) if len(positive) else 1.0
        return Gene(values=values, top=top, expressing=len(positive))


def _plain(value: Any) -> Any:
    """A value of the table in JSON's types; None where it is missing."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (bool, int)) else str(value) or None
