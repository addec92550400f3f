"""cells.zarr.zip of a Xenium bundle: ids, owners of the labels, and centroids from the raster masks."""

import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from past_core.ingest.xenium_files import AGAIN, BundleError
from past_core.ingest.xenium_zarr import ZarrZip, open_zarr

NUCLEUS, CELL = 0, 1
"""Names of the masks and polygon sets."""

MAX_PIXELS = 2**36
"""Largest mask in pixels; the instrument's largest region has about 2**33."""
MAX_LABEL = 2**31
NO_OWNER = 2**32 - 1
"""Stands for the cell of a nucleus that has none."""

Layout = Literal["polygon_sets", "seg_mask_value", "plain"]


class MaskCentroids(NamedTuple):
    """Of each cell: mean of its mask's pixel centres and their number.

    Attributes:
        xy: (N, 2) float64 in continuous morphology pixels (the first pixel's centre is 0.5, 0.5); NaN for a
            cell without pixels.
        n_pixels: (N,) int64.
    """

    xy: np.ndarray
    n_pixels: np.ndarray


class CellsZarr(ZarrZip):
    """An open cells.zarr.zip; see `open_cells`.

    Args:
        path: The zip file.
        archive: The same, open.

    Attributes:
        layout: How labels of the masks are tied to cells. "polygon_sets" (2.0 and later): label = position of
            the polygon + 1, and the polygon names its cell. "seg_mask_value" (1.3 to 1.9): the label of each
            cell, and of its one nucleus. "plain" (before 1.3): the label is the cell's whole-number id.

    Raises:
        BundleError: The layout is none of these.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        super().__init__(path, archive)
        self.layout: Layout = self._sniff()

    def _sniff(self) -> Layout:
        if "polygon_sets" in self:
            return "polygon_sets"
        if "seg_mask_value" in self:
            return "seg_mask_value"
        shape = self.described("cell_id")["shape"]
        if len(shape) == 1 or shape[1:] == [1]:
            return "plain"
        raise BundleError(
            f"{self.path} has neither polygon_sets (Xenium 2.0 and later) nor seg_mask_value (1.3 to 1.9), "
            "but ids of two parts: no known layout"
        )

    def cell_ids(self, n_cells: int) -> np.ndarray:
        """(N,) ids as strings; whole-number ids in decimal."""
        if self.layout == "plain":
            ndim = len(self.described("cell_id")["shape"])
            return self.values("cell_id", ndim=ndim, rows=n_cells).ravel().astype(str).astype(object)
        pairs = self.values("cell_id", ndim=2, rows=n_cells)
        if pairs.shape[1] != 2 or pairs.dtype.kind not in "ui":
            raise BundleError(
                f"{self.path}: array 'cell_id' has {pairs.shape[1]} columns of {pairs.dtype}, expected "
                "prefix and suffix"
            )
        return cell_id_strings(pairs)

    def owners(self, kind: int, n_cells: int) -> "Owners":
        """The cell that owns each label of a mask.

        Raises:
            BundleError: An owner is no row of the table, or two cells have one label.
        """
        if self.layout == "polygon_sets":
            name = f"polygon_sets/{kind}/cell_index"
            rows = self._whole(name)
            if kind == NUCLEUS:  # a nucleus that lies in no cell
                rows = np.where(rows == NO_OWNER, -1, rows)
            bad = np.flatnonzero((rows < (0 if kind == CELL else -1)) | (rows >= n_cells))
            if bad.size:
                raise BundleError(
                    f"{self.path}: {name} is {rows[bad[0]]} at {bad[0]}, expected a row below {n_cells}"
                )
            return Owners(np.arange(1, len(rows) + 1), rows, name)
        name = "seg_mask_value" if self.layout == "seg_mask_value" else "cell_id"
        labels = self._whole(name, rows=n_cells)
        bad = np.flatnonzero((labels < 1) | (labels >= MAX_LABEL))
        if bad.size:
            raise BundleError(
                f"{self.path}: {name} is {labels[bad[0]]} at {bad[0]}, expected a label of the mask from 1"
            )
        order = np.argsort(labels, kind="stable")
        twice = np.flatnonzero(np.diff(labels[order]) == 0)
        if twice.size:
            raise BundleError(
                f"{self.path}: {name} gives label {labels[order][twice[0]]} to the cells in rows "
                f"{order[twice[0]]} and {order[twice[0] + 1]}"
            )
        return Owners(labels[order], order, name)

    def _whole(self, name: str, rows: int | None = None) -> np.ndarray:
        """(n,) int64 of an array of whole numbers."""
        ndim = len(self.described(name)["shape"])
        values = self.values(name, ndim=ndim, rows=rows)
        if values.dtype.kind not in "ui" or values.size != len(values):
            raise BundleError(
                f"{self.path}: {name} is {values.dtype} {values.shape}, expected a list of whole numbers"
            )
        return values.ravel().astype(np.int64)

    def mask_tiles(self, kind: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Goes through a mask by its own chunks: (first row, first column, labels)."""
        mask = self.array(f"masks/{kind}", ndim=2)
        height, width = mask.shape
        n_chunks = -(-height // mask.chunks[0]) * -(-width // mask.chunks[1])
        stored = self.stored(f"masks/{kind}")[0]
        # Chunks of nothing but background may be left out, but hardly all of them.
        if mask.dtype.kind not in "ui" or height * width > MAX_PIXELS or n_chunks > 1000 * max(stored, 1):
            raise BundleError(
                f"{self.path}: masks/{kind} is {mask.dtype} {mask.shape}, expected a label image"
            )
        rows, columns = mask.chunks
        for y in range(0, height, rows):
            for x in range(0, width, columns):
                yield y, x, np.asarray(mask[y : y + rows, x : x + columns])

    def centroids(self, kind: int, n_cells: int) -> MaskCentroids:
        """Streams a mask once: mean of the pixel centres of every cell. Memory: one chunk of the mask.

        Args:
            kind: `CELL` or `NUCLEUS` (the nuclei of one cell count together).
            n_cells: Number of cells N.

        Raises:
            BundleError: The mask is damaged, holds labels without an owner, or no label at all.
        """
        owners = self.owners(kind, n_cells)
        count, sum_x, sum_y = (np.zeros(len(owners.labels)) for _ in range(3))
        for y, x, labels in self.mask_tiles(kind):
            label, row, column, length = _runs(labels)
            if label.size == 0:
                continue
            found, which = np.unique(label, return_inverse=True)
            at = np.minimum(np.searchsorted(owners.labels, found), len(owners.labels) - 1)
            strange = found[owners.labels[at] != found]
            if strange.size:
                raise BundleError(
                    f"{self.path}: masks/{kind} holds label {strange[0]}, but {owners.name} has only "
                    f"{len(owners.labels)} labels and not this one"
                )
            count[at] += np.bincount(which, weights=length)
            sum_x[at] += np.bincount(which, weights=length * (x + column + length / 2))
            sum_y[at] += np.bincount(which, weights=length * (y + row + 0.5))
        if not count.any():
            raise BundleError(f"{self.path}: masks/{kind} is empty; {AGAIN}")
        owned = owners.rows >= 0
        row = owners.rows[owned]
        per_cell = np.bincount(row, weights=count[owned], minlength=n_cells)
        xy = np.full((n_cells, 2), np.nan)
        for axis, total in enumerate((sum_x, sum_y)):
            summed = np.bincount(row, weights=total[owned], minlength=n_cells)
            np.divide(summed, per_cell, out=xy[:, axis], where=per_cell > 0)
        return MaskCentroids(xy, per_cell.astype(np.int64))


class Owners(NamedTuple):
    """Which cell each label of a mask belongs to.

    Attributes:
        labels: (P,) ascending labels.
        rows: (P,) rows of their cells, -1 for none.
        name: The array that says so.
    """

    labels: np.ndarray
    rows: np.ndarray
    name: str


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of one label along the rows: label, row, first column and length of each; background is left out.

    A cell is dozens of pixels wide, so that sums over runs cost a small part of sums over pixels.
    """
    first = np.ones(labels.shape, dtype=bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=first[:, 1:])
    start = np.flatnonzero(first)
    length = np.diff(start, append=labels.size)
    label = labels.ravel()[start]
    kept = label != 0
    row, column = np.divmod(start[kept], labels.shape[1])
    return label[kept].astype(np.int64), row, column, length[kept]


def open_cells(path: Path) -> AbstractContextManager[CellsZarr]:
    """Opens cells.zarr.zip in place.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: No zip, truncated, damaged, or no zarr of format 2 in it.
    """
    return open_zarr(path, "the masks and ids of the cells", CellsZarr)


def cell_id_strings(pairs: Any) -> np.ndarray:
    """Spells cell ids: each hexadecimal digit d of the prefix is the letter 'a' + d, then '-' and the suffix.

    Args:
        pairs: (N, 2) uint32 prefix and suffix; (1, 1) is aaaaaaab-1.
    """
    pairs = np.asarray(pairs, dtype=np.uint32)
    digits = (pairs[:, :1] >> np.arange(28, -1, -4, dtype=np.uint32)) & np.uint32(15)
    letters = np.ascontiguousarray((digits + ord("a")).astype(np.uint8)).view("S8").ravel()
    return np.array(
        [f"{p.decode()}-{s}" for p, s in zip(letters, pairs[:, 1].tolist(), strict=True)], dtype=object
    )
