"""cells.zarr.zip of a Xenium bundle: ids, owners of the labels, and centroids from the raster masks."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from past_core.ingest.xenium_files import AGAIN, BundleError, open_zip

NUCLEUS, CELL = 0, 1
"""Names of the masks and polygon sets."""

MAX_CHUNK = 2**30
"""Largest chunk in bytes that is decoded in one piece."""
MAX_PIXELS = 2**36
"""Largest mask in pixels; the instrument's largest region has about 2**33."""

# A zarr array may name any codec, Pickle among them; only these run, and only on numbers.
_COMPRESSORS = {None, "blosc", "gzip", "lz4", "zlib", "zstd"}


class MaskCentroids(NamedTuple):
    """Of each cell: mean of its mask's pixel centres and their number.

    Attributes:
        xy: (N, 2) float64 in continuous morphology pixels (the first pixel's centre is 0.5, 0.5); NaN for a
            cell without pixels.
        n_pixels: (N,) int64.
    """

    xy: np.ndarray
    n_pixels: np.ndarray


class CellsZarr:
    """An open cells.zarr.zip; see `open_cells`.

    Args:
        path: The zip file.
        archive: The same, open.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path = path
        self._archive = archive
        self._names = set(archive.namelist())
        self._root = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", zarr_format=2)

    def __contains__(self, name: str) -> bool:
        return f"{name}/.zarray" in self._names or f"{name}/.zgroup" in self._names

    def array(self, name: str, *, ndim: int) -> zarr.Array:
        """Opens an array of numbers.

        Raises:
            BundleError: It is missing, not of numbers, of other dimensions, or in chunks too large to decode.
        """
        if f"{name}/.zarray" not in self._names:
            raise BundleError(f"{self.path} has no array {name!r}; expected the layout of Xenium 2.0 to 3.x")
        described = json.loads(self._archive.read(f"{name}/.zarray"))
        compressor = (described.get("compressor") or {}).get("id")
        dtype = np.dtype(described["dtype"]) if isinstance(described.get("dtype"), str) else np.dtype(object)
        if described.get("filters") or compressor not in _COMPRESSORS or dtype.kind not in "uif":
            raise BundleError(
                f"{self.path}: array {name!r} of {dtype} with codec {compressor!r} and filters "
                f"{described.get('filters')!r} is not read; expected plain numbers"
            )
        chunks, shape = described["chunks"], described["shape"]
        if len(shape) != ndim or np.prod(chunks, dtype=float) * dtype.itemsize > MAX_CHUNK:
            raise BundleError(
                f"{self.path}: array {name!r} has shape {shape} in chunks of {chunks}; expected {ndim}D"
            )
        return self._root[name]

    def values(self, name: str, *, ndim: int, rows: int | None = None) -> np.ndarray:
        """Reads a small array whole.

        Args:
            name: Its path.
            ndim: Its number of dimensions.
            rows: Its length, where known.

        Raises:
            BundleError: As `array`, or of another length.
        """
        array = self.array(name, ndim=ndim)
        if rows is not None and array.shape[0] != rows:
            raise BundleError(
                f"{self.path}: array {name!r} has {array.shape[0]} rows, expected {rows} (cells)"
            )
        if array.size > MAX_CHUNK:
            raise BundleError(f"{self.path}: array {name!r} of shape {array.shape} is too large")
        return np.asarray(array[...])

    def cell_ids(self, n_cells: int) -> np.ndarray:
        """(N,) ids as strings."""
        pairs = self.values("cell_id", ndim=2, rows=n_cells)
        if pairs.shape[1] != 2:
            raise BundleError(
                f"{self.path}: array 'cell_id' has {pairs.shape[1]} columns, expected prefix and suffix"
            )
        return cell_id_strings(pairs)

    def owners(self, kind: int, n_cells: int) -> np.ndarray:
        """(P,) row of the cell that owns each label 1..P of a mask.

        Raises:
            BundleError: An owner is no row of the table.
        """
        owners = self.values(f"polygon_sets/{kind}/cell_index", ndim=1).astype(np.int64)
        bad = np.flatnonzero((owners < 0) | (owners >= n_cells))
        if bad.size:
            raise BundleError(
                f"{self.path}: polygon_sets/{kind}/cell_index is {owners[bad[0]]} at {bad[0]}, "
                f"expected a row below {n_cells}"
            )
        return owners

    def mask_tiles(self, kind: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Goes through a mask by its own chunks: (first row, first column, labels)."""
        mask = self.array(f"masks/{kind}", ndim=2)
        height, width = mask.shape
        if mask.dtype.kind not in "ui" or height * width > MAX_PIXELS:
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
        count, sum_x, sum_y = (np.zeros(len(owners) + 1) for _ in range(3))
        for y, x, labels in self.mask_tiles(kind):
            label, row, column, length = _runs(labels)
            if label.size == 0:
                continue
            found, which = np.unique(label, return_inverse=True)
            if found[-1] > len(owners):
                raise BundleError(
                    f"{self.path}: masks/{kind} holds label {found[-1]}, but polygon_sets/{kind} has only "
                    f"{len(owners)} polygons"
                )
            count[found] += np.bincount(which, weights=length)
            sum_x[found] += np.bincount(which, weights=length * (x + column + length / 2))
            sum_y[found] += np.bincount(which, weights=length * (y + row + 0.5))
        if not count.any():
            raise BundleError(f"{self.path}: masks/{kind} is empty; {AGAIN}")
        per_cell = np.bincount(owners, weights=count[1:], minlength=n_cells)
        xy = np.full((n_cells, 2), np.nan)
        for axis, total in enumerate((sum_x, sum_y)):
            summed = np.bincount(owners, weights=total[1:], minlength=n_cells)
            np.divide(summed, per_cell, out=xy[:, axis], where=per_cell > 0)
        return MaskCentroids(xy, per_cell.astype(np.int64))


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


@contextmanager
def open_cells(path: Path) -> Iterator[CellsZarr]:
    """Opens cells.zarr.zip in place.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: No zip, truncated, damaged, or no zarr of format 2 in it.
    """
    with open_zip(path, "the masks and ids of the cells") as archive:
        if ".zgroup" not in archive.namelist():
            raise BundleError(f"{path} holds no zarr group of format 2, the layout of Xenium 2.0 to 3.x")
        try:
            yield CellsZarr(path, archive)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(f"{path} is damaged ({error}); {AGAIN}") from error


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
