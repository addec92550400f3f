"""Damaged copies of a Xenium bundle, and what reading one may end in."""

import contextlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from made_xenium import ALIGNMENT, HE, same_outlines

from past_core.errors import PastError
from past_core.ingest.xenium import read_bundle
from past_core.synthetic.xenium_versions.arrays import read_archive, write_archive

PARQUET = ("cells.parquet", "cell_boundaries.parquet", "nucleus_boundaries.parquet")
MATRIX = "cell_feature_matrix.h5"
MATRIX_ZARR = "cell_feature_matrix.zarr.zip"
MASKS = "cells.zarr.zip"
MANIFEST = "experiment.xenium"
FILES = (MANIFEST, *PARQUET, MATRIX, MATRIX_ZARR, MASKS, HE, ALIGNMENT)

ONCE = "nucleus_area_um2", "nucleus_count", "segmentation_method"
"""Columns of the table that no other file repeats."""


class Damage:
    """Makes damaged copies of one bundle and judges what is read of them.

    Args:
        whole: The bundle; only read.
        folder: Where the copies are made, one at a time.
    """

    def __init__(self, whole: Path, folder: Path) -> None:
        self.whole, self.folder = whole, folder
        self.reference = read_bundle(whole, whole / HE)
        self.pixels = pixels(self.reference)
        self.accepted = self.refused = 0

    @contextlib.contextmanager
    def copy(self):
        """A bundle whose files are links to the whole one's: a file is replaced, never written into."""
        target = self.folder / "bundle"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in FILES:
            if (self.whole / name).exists():
                os.link(self.whole / name, target / name)
        yield target
        shutil.rmtree(target, ignore_errors=True)

    def outcome(self, bundle: Path):
        """The slide, or None where it is refused by a message that names one of its files.

        Any other exception goes through, and fails the test.
        """
        try:
            slide = read_bundle(bundle, bundle / HE)
            image = pixels(slide)
        except PastError as error:
            message = str(error)
            assert str(bundle) in message, f"names no file: {message}"
            assert "Traceback" not in message
            assert len(message) < 5000
            self.refused += 1
            return None
        np.testing.assert_array_equal(image, self.pixels)
        self.accepted += 1
        return slide

    def judge(
        self,
        bundle: Path,
        *,
        loose: tuple[str, ...] = (),
        outlines: bool = True,
        genes: int = 0,
        atol_um: float = 0.01,
        exchanged: bool = False,
    ):
        """Reads a damaged bundle: refused by name, or equal to the whole one.

        Args:
            bundle: The copy.
            loose: Columns of obs that may differ, for the file that was damaged is the only one to hold them.
            outlines: The outlines must be equal where they are there at all.
            genes: How many ids or symbols of genes may differ, for the same reason.
            atol_um: Of positions.
            exchanged: Counts of one cell may be those of its other genes.
        """
        slide = self.outcome(bundle)
        if slide is not None:
            self.same(
                slide, loose=loose, outlines=outlines, genes=genes, atol_um=atol_um, exchanged=exchanged
            )
        return slide

    def same(
        self,
        slide,
        *,
        loose: tuple[str, ...] = (),
        outlines: bool = True,
        genes: int = 0,
        atol_um: float = 0.01,
        exchanged: bool = False,
    ) -> None:
        """Asserts that a slide is the whole bundle's."""
        expected = self.reference
        left, right = slide.table, expected.table
        np.testing.assert_array_equal(left.obs_names, right.obs_names)
        assert left.shape == right.shape
        for found, wanted in ((left.var_names, right.var_names), (left.var["symbol"], right.var["symbol"])):
            assert (np.asarray(found) != np.asarray(wanted)).sum() <= genes
        if exchanged:
            assert left.X.nnz == right.X.nnz
            np.testing.assert_array_equal(left.X.sum(axis=1), right.X.sum(axis=1))
        else:
            assert (left.X != right.X).nnz == 0
        assert left.X.dtype == right.X.dtype
        np.testing.assert_allclose(left.obsm["spatial"], right.obsm["spatial"], rtol=0, atol=atol_um / 0.25)
        assert abs(slide.mpp / expected.mpp - 1) < 0.021
        np.testing.assert_allclose(slide.registration["matrix"], expected.registration["matrix"])
        for column in left.obs:
            values = left.obs[column]
            if pd.api.types.is_numeric_dtype(values):
                assert not np.isinf(values).any()
                assert not (values < 0).any()
            if column in loose:
                continue
            if pd.api.types.is_numeric_dtype(values):
                np.testing.assert_allclose(values, right.obs[column], rtol=1e-6)
            else:
                np.testing.assert_array_equal(values.astype(str), right.obs[column].astype(str))
        for name in ("cell_boundaries", "nucleus_boundaries"):
            found = getattr(slide, name)
            assert (found is None) == any(
                note.startswith((f"{name} not", f"{name} holds no")) for note in slide.report["notes"]
            )
            if found is not None and outlines:
                same_outlines(found, getattr(expected, name), slide, expected, 0.05)


def pixels(slide) -> np.ndarray:
    """All of the finest level."""
    return np.asarray(slide.image.read(0, 0, 0, slide.image.height, slide.image.width))


def replace(path: Path, content: bytes) -> None:
    """Puts a new file in the place of a link."""
    path.unlink()
    path.write_bytes(content)


def edit_table(bundle: Path, name: str, change) -> None:
    """Writes what `change` makes of a table."""
    path = bundle / name
    table = change(pq.read_table(path))
    path.unlink()
    pq.write_table(table, path)


@contextlib.contextmanager
def edit_matrix(bundle: Path):
    """The matrix, open to be changed."""
    path = bundle / MATRIX
    replace(path, path.read_bytes())
    with h5py.File(path, "r+") as file:
        yield file


def edit_entries(bundle: Path, change, *, name: str = MASKS) -> None:
    """Writes the zip with the entries that `change(dict)` changes in place."""
    path = bundle / name
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def edit_arrays(bundle: Path, change, *, name: str = MASKS) -> None:
    """Writes the zip with the arrays that `change(dict)` changes in place."""
    path = bundle / name
    archive = read_archive(path)
    change(archive.arrays)
    archive.chunks = {
        array: chunks
        for array, chunks in archive.chunks.items()
        if array.startswith("masks/") and archive.arrays.get(array, np.zeros(0)).ndim == 2
    }
    path.unlink()
    write_archive(path, archive)


def edit_manifest(bundle: Path, change) -> None:
    """Writes the manifest that `change(dict)` changes in place."""
    path = bundle / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    replace(path, json.dumps(content).encode())
