"""Cells of a store that is there flagged anew: only the table is written, and whole or not at all."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import zarr

from past_core.errors import PastError
from past_core.ingest.layout import TABLE
from past_core.ingest.neighbors import set_neighbors
from past_core.ingest.quality.assess import Assessment, assess, nuclei_of
from past_core.ingest.quality.haematoxylin import Outlines
from past_core.ingest.quality.options import QualityOptions
from past_core.ingest.store import SlideStore
from past_core.remote import RemotePath, require_local


class ReflagError(PastError, OSError):
    """The new flags cannot be written."""


def assess_store(store: SlideStore, options: QualityOptions) -> Assessment:
    """Runs quality control on a store's cells and image.

    Args:
        store: the slide.
        options: the tests.
    """
    from past_core.slides.stored import StoredSlide

    level = store.levels[0]
    return assess(
        options,
        counts=store.counts,
        xy=store.centroids,
        size=(level.height, level.width),
        mpp=store.mpp,
        obs=store.obs,
        image=StoredSlide(store),
        nuclei=_nuclei(store) if options.haematoxylin else None,
        name=store.name,
    )


def write_flags(store: SlideStore, found: Assessment) -> Path:
    """Puts flags, reasons and numbers into a store, and makes its neighbour graphs anew.

    The new store is made beside the old one, its image and outlines as hard links to the same files, and
    takes its place when complete.

    Args:
        store: on local disk.
        found: of `assess_store`, in the store's row order.

    Raises:
        ReflagError: No cell would pass, or the disk is full or not to be written to.
        RemoteError: The store is behind a URL.
    """
    import anndata

    from past_core.ingest.write import plain, renamed_when_complete

    path, flags = require_local(store.path), found.flags()
    if not flags["qc_pass"].any():
        raise ReflagError(
            f"{path}: no cell would pass ({found.report(flags)['reasons']}); nothing was changed"
        )
    folder = path / "tables" / TABLE
    table = anndata.read_zarr(folder)
    table.obs = table.obs.drop(columns=[name for name in table.obs if name.startswith("qc_")])
    for column in flags:
        table.obs[column] = flags[column].array if column == "qc_reason" else flags[column].to_numpy()
    k = int(store.manifest["neighbors"]["k"])
    median = set_neighbors(table, mpp=store.mpp, k=k)
    manifest = dict(store.manifest)
    manifest["neighbors"] = {"k": k, "median_um": None if median != median else median}
    manifest["qc"] = plain(found.report(flags))
    attributes = dict(zarr.open_group(folder, mode="r", use_consolidated=False).attrs)
    try:
        with renamed_when_complete(path, overwrite=True) as partial:
            shutil.copytree(path, partial, copy_function=_link, ignore=_but_table(path))
            with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
                warnings.simplefilter("ignore")
                with anndata.settings.override(zarr_write_format=3):
                    table.write_zarr(partial / "tables" / TABLE)
                group = zarr.open_group(partial / "tables" / TABLE, mode="r+", use_consolidated=False)
                group.attrs.update(attributes)
                zarr.open_group(partial, mode="r+", use_consolidated=False).attrs["past"] = manifest
                zarr.consolidate_metadata(partial)
            SlideStore(partial)  # opens only if it is whole
    except OSError as error:
        if isinstance(error, PastError):
            raise
        raise ReflagError(f"{path}: the flags cannot be written ({error}); nothing was changed") from error
    return path


def _link(source: str, target: str) -> None:
    """A hard link for what is never changed; metadata are copied, for they are."""
    if source.endswith("zarr.json"):
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _but_table(path: Path) -> Callable[[str, list[str]], set[str]]:
    tables = str(path / "tables")
    return lambda folder, names: {TABLE} & set(names) if folder == tables else set()


def _nuclei(store: SlideStore) -> Outlines | None:
    """The outlines of the store's nuclei, None where it has none."""
    import geopandas
    import pandas as pd

    file = store.path / "shapes" / "nucleus_boundaries" / "shapes.parquet"
    if isinstance(store.path, RemotePath) or not file.is_file():
        return None
    return nuclei_of(geopandas.read_parquet(file), pd.Index(store.cell_ids))
