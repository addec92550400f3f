"""Reads slide stores: the image through tensorstore, the table on demand. Imports no SpatialData."""

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import zarr
from scipy.sparse import csr_matrix

from past_core.errors import PastError
from past_core.ingest.contents import Contents, TableStore
from past_core.ingest.layout import (
    FORMAT,
    IMAGE,
    TABLE,
    StoreError,
    StoreNotFoundError,
    is_store,
    read_manifest,
)
from past_core.ingest.neighbors import CONNECTIVITIES, DISTANCES
from past_core.ingest.pyramid import FILL, open_level, refuse_after_fork
from past_core.remote import Location, locate, remote_error

__all__ = ["FORMAT", "Level", "SlideStore", "StoreError", "StoreNotFoundError", "is_store"]


@dataclass(frozen=True)
class Level:
    """One level of the image pyramid: its size in its own pixels and their size in um."""

    height: int
    width: int
    mpp: float


class SlideStore:
    """One slide: H&E pyramid, cells with raw counts, and their neighbours.

    Opening checks the whole layout and that no image chunk is missing; the table's parts are read when first
    asked for. Instances may be shared by threads and sent to spawned processes. In a process forked after
    pixels were read, reading pixels is refused: tensorstore would abort the whole process.

    Coordinates are level-0 pixels with the image's top-left corner at (0, 0): pixel i covers [i, i + 1).

    Args:
        path: The `.zarr` folder that `write_store` made, or its URL: s3://, gs://, http(s):// (see `remote`).

    Attributes:
        path: A Path, or a `RemotePath` of a URL.
        mpp: um per level-0 pixel.
        levels: The image's levels, finest first.

    Raises:
        StoreNotFoundError: If nothing is there.
        StoreError: If it is no slide store, of another format version, truncated, or holds no cells.
        RemoteError: If a URL cannot be reached, or may not be read.
    """

    def __init__(self, path: str | Location):
        self.path = locate(path)
        self._lock = threading.Lock()
        self._arrays: dict[int, Any] = {}
        self.manifest = read_manifest(self.path)
        self.mpp: float = float(self.manifest["mpp"])
        contents = Contents(self.path, (f"images/{IMAGE}", f"tables/{TABLE}"))
        self.levels: tuple[Level, ...] = self._check_image(contents)
        self._table = contents.table(f"tables/{TABLE}")
        self._root = self._check_table(contents)

    def __reduce__(self) -> tuple[type, tuple[Location]]:
        return SlideStore, (self.path,)

    def __repr__(self) -> str:
        level = self.levels[0]
        size = f"{level.width} x {level.height} px, {self.mpp:g} um/px"
        return f"SlideStore({self.name!r}, {self.n_cells} cells, {size})"

    def _fail(self, found: str) -> StoreError:
        return StoreError(f"{self.path}: {found}; the store is damaged, make it again with `past ingest`")

    def _check_chunks(self, contents: Contents, folder: str) -> None:
        missing = contents.missing(folder)
        if missing:
            raise self._fail(f"{missing[0]} lacks {missing[1]} chunks")

    def _check_image(self, contents: Contents) -> tuple[Level, ...]:
        folder = f"images/{IMAGE}"
        metadata = contents.metadata(folder)
        try:
            datasets = metadata["attributes"]["ome"]["multiscales"][0]["datasets"]
            names = [str(dataset["path"]) for dataset in datasets]
        except (KeyError, IndexError, TypeError):
            raise self._fail(f"images/{IMAGE} has no list of levels") from None
        self._level_names = names
        levels = []
        for number, name in enumerate(names):
            array = contents.metadata(f"{folder}/{name}")
            shape = array.get("shape", [])
            if len(shape) != 3 or shape[0] != 3 or array.get("data_type") != "uint8":
                raise self._fail(
                    f"level {name} of the image has shape {shape} and type {array.get('data_type')}, "
                    "expected (3, height, width) uint8"
                )
            self._check_chunks(contents, f"{folder}/{name}")
            levels.append(Level(int(shape[1]), int(shape[2]), self.mpp * 2**number))
        if not levels:
            raise self._fail("the image has no levels")
        return tuple(levels)

    def _check_table(self, contents: Contents) -> zarr.Group:
        folder = f"tables/{TABLE}"
        contents.metadata(folder)
        parts = ["X", "obsm/spatial", f"obsp/{CONNECTIVITIES}", f"obsp/{DISTANCES}", "obs/qc_pass"]
        for frame in ("obs", "var"):
            attributes = contents.metadata(f"{folder}/{frame}").get("attributes", {})
            parts.append(f"{frame}/{attributes.get('_index', '_index')}")
        for part in parts:
            self._check_chunks(contents, f"{folder}/{part}")
        try:
            group = zarr.open_group(self._table, mode="r", zarr_format=3, use_consolidated=False)
            spatial = group["obsm/spatial"]
        except PastError:
            raise
        except Exception as error:  # damaged since its metadata were read, or in what zarr alone reads
            raise self._fail(f"{folder} cannot be read ({error})") from error
        if not isinstance(spatial, zarr.Array):
            raise self._fail("the table's obsm/spatial is no array")
        shape = tuple(spatial.shape)
        if shape[0] == 0:
            raise StoreError(f"{self.path} holds no cells; ingest a slide with cells")
        blocks = self.blocks
        whole = len(blocks) and blocks[0, 2] == 0 and blocks[-1, 3] == shape[0]
        if not whole or (blocks[1:, 2] != blocks[:-1, 3]).any():
            raise self._fail(f"the manifest's blocks do not cover the table's {shape[0]} rows")
        self._n_cells = int(shape[0])
        return group

    def _element(self, name: str) -> Any:
        from anndata.io import read_elem  # seconds to import, and the image needs none of it

        remote = self._table if isinstance(self._table, TableStore) else None
        try:
            with self._lock:  # what is read ahead is one element
                if remote is not None:
                    remote.read_ahead(name)
                return read_elem(self._root[name])
        except PastError:
            raise
        except Exception as error:
            raise self._fail(f"tables/{TABLE}/{name} cannot be read ({error})") from error
        finally:
            if remote is not None:
                remote.forget()

    # --- manifest -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The slide's name."""
        return str(self.manifest["name"])

    @property
    def patient(self) -> str:
        """The patient; the slide's own name where ingest was told none."""
        return str(self.manifest.get("patient") or self.name)

    @property
    def cancer_type(self) -> str | None:
        """The cancer type, where known."""
        return self.manifest.get("cancer_type")

    @property
    def assay(self) -> str:
        """The assay's context token, such as `xenium`."""
        return str(self.manifest["assay"])

    @property
    def organism(self) -> str:
        """The organism's context token."""
        return str(self.manifest["organism"])

    @property
    def modality(self) -> str:
        """The modality's context token."""
        return str(self.manifest["modality"])

    @property
    def block_size(self) -> int:
        """Side of a block in level-0 pixels."""
        return int(self.manifest["block_size"])

    @cached_property
    def blocks(self) -> np.ndarray:
        """(n_blocks, 4) int64 [block_row, block_col, start, stop): the rows with centroids in that block.

        A cell outside the image (it has failed QC) is in the nearest block. Blocks without cells are left
        out.
        """
        return np.asarray(self.manifest["blocks"], dtype=np.int64).reshape(-1, 4)

    # --- image ----------------------------------------------------------------------------------------------

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Reads a window of one level; what lies outside the image is white (255).

        Args:
            level: Index into `levels`.
            y: Top row in the level's pixels, may be negative.
            x: Left column in the level's pixels, may be negative.
            height: Rows.
            width: Columns.

        Returns:
            (3, height, width) uint8, the caller's own.

        Raises:
            StoreError: If the level does not exist, the size is not positive, or a chunk is damaged or lost.
            RemoteError: If the server cannot be reached any more.
        """
        if not 0 <= level < len(self.levels) or height < 1 or width < 1:
            raise StoreError(
                f"{self.path}: cannot read {height} x {width} px of level {level}; "
                f"there are {len(self.levels)} levels and sizes must be positive"
            )
        size = self.levels[level]
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + height, size.height), min(x + width, size.width)
        if top >= bottom or left >= right:
            return np.full((3, height, width), FILL, np.uint8)
        try:
            pixels = self._array(level)[:, top:bottom, left:right].read().result()
        except ValueError as error:
            raise remote_error(error, self.path) or self._fail(
                f"image level {level} cannot be read ({error})"
            ) from error
        if pixels.shape == (3, height, width):
            return pixels
        window = np.full((3, height, width), FILL, np.uint8)
        window[:, top - y : bottom - y, left - x : right - x] = pixels
        return window

    def _array(self, level: int) -> Any:
        refuse_after_fork()
        with self._lock:
            if level not in self._arrays:
                folder = self.path / f"images/{IMAGE}/{self._level_names[level]}"
                self._arrays[level] = open_level(folder)
            return self._arrays[level]

    # --- table ----------------------------------------------------------------------------------------------

    @property
    def n_cells(self) -> int:
        """Number of rows, failed cells included."""
        return self._n_cells

    @cached_property
    def obs(self) -> pd.DataFrame:
        """One row a cell, indexed by cell id."""
        return self._element("obs")

    @cached_property
    def genes(self) -> pd.DataFrame:
        """One row a gene, indexed by Ensembl id, with `symbol`."""
        return self._element("var")

    @cached_property
    def counts(self) -> csr_matrix:
        """(n_cells, n_genes) raw counts, int32, indices sorted."""
        counts = csr_matrix(self._element("X"))
        counts.sort_indices()
        expected = self.manifest["counts"]
        found = (counts.shape[0], counts.nnz, int(counts.sum(dtype=np.int64)))
        wanted = (self.n_cells, expected["stored"], expected["total"])
        if found != wanted:
            raise self._fail(f"counts have (cells, entries, total) {found}, expected {wanted}")
        return counts

    @cached_property
    def passed(self) -> np.ndarray:
        """(n_cells,) bool, the cells that passed QC."""
        return self.obs["qc_pass"].to_numpy(dtype=bool)

    @cached_property
    def centroids(self) -> np.ndarray:
        """(n_cells, 2) float64, x and y in level-0 pixels."""
        return np.asarray(self._element("obsm/spatial"), dtype=np.float64)

    @cached_property
    def cell_ids(self) -> np.ndarray:
        """(n_cells,) str."""
        return self.obs.index.to_numpy(dtype=str)

    @cached_property
    def _neighborhoods(self) -> tuple[np.ndarray, np.ndarray]:
        links = csr_matrix(self._element(f"obsp/{CONNECTIVITIES}"))
        lengths = csr_matrix(self._element(f"obsp/{DISTANCES}"))
        for graph in (links, lengths):
            graph.sort_indices()
        if not np.array_equal(links.indptr, lengths.indptr) or not np.array_equal(
            links.indices, lengths.indices
        ):
            raise self._fail("the neighbour graphs' links and distances differ in structure")
        k = int(self.manifest["neighbors"]["k"])
        per_row = np.diff(links.indptr)
        if per_row.max(initial=0) > k:
            raise self._fail(f"a cell has {per_row.max()} neighbours, expected at most {k}")
        rows = np.repeat(np.arange(self.n_cells), per_row)
        order = np.lexsort((links.indices, lengths.data, rows))
        place = np.arange(links.nnz) - np.repeat(links.indptr[:-1], per_row)
        indices = np.full((self.n_cells, k), -1, np.int64)
        distances = np.full((self.n_cells, k), np.inf, np.float32)
        indices[rows, place] = links.indices[order]
        distances[rows, place] = lengths.data[order]
        return indices, distances

    @property
    def neighbors(self) -> np.ndarray:
        """(n_cells, k) int64 rows of the nearest QC-passing cells, nearest first, -1 where absent."""
        return self._neighborhoods[0]

    @property
    def distances(self) -> np.ndarray:
        """(n_cells, k) float32 um to `neighbors`, inf where absent."""
        return self._neighborhoods[1]

    @cached_property
    def median_distance(self) -> float:
        """Median of the finite distances in um, nan where there are none."""
        finite = self.distances[np.isfinite(self.distances)]
        return float(np.median(finite)) if len(finite) else float("nan")
