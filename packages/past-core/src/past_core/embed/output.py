"""Embeddings as files: written whole or not at all, and read back by their manifest."""

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import zarr
from anndata.io import read_elem

from past_core.atomic import replacing
from past_core.embed.partial import sweep
from past_core.errors import PastError
from past_core.foreign.sizes import check_hdf5
from past_core.remote import require_local

SUFFIXES = (".h5ad", ".zarr")
MANIFEST_KEY = "past"


class EmbedError(PastError, ValueError):
    """Embeddings that cannot be made from this input, or not be written there."""


def write_embeddings(table: ad.AnnData, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes an AnnData as `.h5ad` or `.zarr`, whole or not at all; what was kept beside it then goes.

    Raises:
        EmbedError: another suffix, or something is there already.
    """
    path = check_output(path, overwrite=overwrite)
    with replacing(path) as temporary:
        if path.suffix == ".h5ad":
            table.write_h5ad(temporary)
        else:
            # Version 3, as slide stores are; the warnings announce changes of later anndata and zarr.
            with warnings.catch_warnings(action="ignore"), ad.settings.override(zarr_write_format=3):
                table.write_zarr(temporary)
    sweep(path)
    return path


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """Refuses an output that could not be written, before any work is done.

    Raises:
        EmbedError: see `write_embeddings`.
        RemoteError: a URL.
    """
    path = require_local(path)
    if path.suffix not in SUFFIXES:
        raise EmbedError(
            f"{path}: embeddings are written as {' or '.join(SUFFIXES)}; give the output that suffix"
        )
    if path.exists() and not overwrite:
        raise EmbedError(f"{path} exists already; choose another name or pass --overwrite")
    return path


def read_manifest(path: str | Path) -> dict[str, Any] | None:
    """The manifest of written embeddings; None where there are none that can be read.

    Raises:
        EmbedError: something else is there.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        if path.suffix == ".h5ad":
            check_hdf5(path)
            with h5py.File(path, "r") as file:
                manifest = read_elem(file["uns"][MANIFEST_KEY])
        else:
            manifest = read_elem(zarr.open_group(path, mode="r")[f"uns/{MANIFEST_KEY}"])
    except Exception as error:  # whatever h5py, zarr or anndata raise on foreign data
        raise EmbedError(f"{path} exists but holds no embeddings of PAST ({error})") from error
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in manifest.items()}
