"""Which files of a Xenium bundle are read, whatever version wrote it."""

import logging
from dataclasses import dataclass
from pathlib import Path

from past_core.ingest.xenium_files import BundleNotFoundError

logger = logging.getLogger(__name__)

EXPERIMENT = "experiment.xenium"
MASKS = "cells.zarr.zip"
MATRIX = "cell_feature_matrix.h5"
MATRIX_FOLDER = "cell_feature_matrix"
MATRIX_ZARR = "cell_feature_matrix.zarr.zip"
TABLES = ("cells", "cell_boundaries", "nucleus_boundaries")
SUFFIXES = (".parquet", ".csv.gz", ".csv")
"""Of a table, the first that is there is read."""


@dataclass(frozen=True)
class BundleFiles:
    """The files of one bundle.

    Attributes:
        experiment: The manifest.
        cells: The table of cells.
        matrix: The counts: an HDF5 file, the folder with matrix.mtx.gz, or the zip of zarr.
        masks: cells.zarr.zip, or None.
        cell_boundaries: Outlines of the cells, or None.
        nucleus_boundaries: Outlines of the nuclei, or None.
    """

    experiment: Path
    cells: Path
    matrix: Path
    masks: Path | None
    cell_boundaries: Path | None
    nucleus_boundaries: Path | None

    def present(self) -> dict[str, Path]:
        """Label to path of the files that are there."""
        return {label: path for label, path in vars(self).items() if path is not None}

    def missing(self) -> list[str]:
        """Labels of the files that one can do without and that are not there."""
        return [label for label, path in vars(self).items() if path is None]


def find_files(bundle: Path) -> BundleFiles:
    """Looks for a bundle's files by their exact names.

    What other software leaves beside them (`._cells.parquet`, `.DS_Store`, `__MACOSX`) has other names and is
    never looked at.

    Args:
        bundle: The output folder.

    Raises:
        BundleNotFoundError: It is no folder, or a file that is needed lacks.
    """
    if not bundle.is_dir():
        raise BundleNotFoundError(
            f"{bundle} is not a folder: expected a Xenium output bundle with {EXPERIMENT}"
        )
    experiment = bundle / EXPERIMENT
    if not experiment.is_file():
        deeper = sorted(p.parent.name for p in bundle.glob(f"*/{EXPERIMENT}"))
        hint = f"; there is one in {', '.join(deeper[:5])}: name that folder" if deeper else ""
        raise BundleNotFoundError(
            f"{experiment} not found: expected the manifest of a Xenium output bundle{hint}"
        )
    tables = {name: _table(bundle, name) for name in TABLES}
    cells = tables.pop("cells")
    if cells is None:
        raise BundleNotFoundError(
            f"{bundle / 'cells.parquet'} not found, nor cells.csv.gz: expected the table of cells of the "
            "output bundle; copy it from the instrument's output"
        )
    masks = bundle / MASKS
    return BundleFiles(
        experiment=experiment,
        matrix=_matrix(bundle),
        masks=masks if masks.is_file() else None,
        cells=cells,
        **tables,
    )


def _table(bundle: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := bundle / f"{name}{suffix}").is_file()), None)


def _matrix(bundle: Path) -> Path:
    folder = bundle / MATRIX_FOLDER
    if (bundle / MATRIX).is_file():
        return bundle / MATRIX
    if any((folder / f"matrix.mtx{end}").is_file() for end in (".gz", "")):
        return folder
    if (bundle / MATRIX_ZARR).is_file():
        return bundle / MATRIX_ZARR
    packed = bundle / f"{MATRIX_FOLDER}.tar.gz"
    hint = f" ({packed.name} is there, but not read; unpack it beside it)" if packed.is_file() else ""
    raise BundleNotFoundError(
        f"{bundle / MATRIX} not found, nor {MATRIX_FOLDER}/matrix.mtx.gz or {MATRIX_ZARR}: expected the 10x "
        f"count matrix of the output bundle{hint}"
    )
