"""Reads all of a bundle's zip of zarr, such as cells.zarr.zip, into memory and writes it again."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc


@dataclass
class CellsArchive:
    """The content of a cells.zarr.zip, or of another zip of zarr.

    Attributes:
        attributes: Of the root.
        arrays: By path.
        array_attributes: By path, where there are any.
        chunks: By path, where an array is not one chunk.
        group_attributes: Of groups below the root, by path.
    """

    attributes: dict[str, Any]
    arrays: dict[str, np.ndarray]
    array_attributes: dict[str, dict[str, Any]]
    chunks: dict[str, tuple[int, ...]]
    group_attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_archive(path: Path) -> CellsArchive:
    """Reads every array."""
    with zarr.storage.ZipStore(path, mode="r") as store:
        root = zarr.open_group(store, mode="r", zarr_format=2)
        members = dict(root.members(max_depth=None))
        found = {name: item for name, item in members.items() if isinstance(item, zarr.Array)}
        groups = {name: dict(item.attrs) for name, item in members.items() if isinstance(item, zarr.Group)}
        return CellsArchive(
            dict(root.attrs),
            {name: np.asarray(item[...]) for name, item in found.items()},
            {name: dict(item.attrs) for name, item in found.items() if dict(item.attrs)},
            {name: item.chunks for name, item in found.items()},
            {name: attributes for name, attributes in groups.items() if attributes},
        )


def write_archive(path: Path, archive: CellsArchive) -> None:
    """Writes zarr of format 2 in a zip that only stores, for the chunks are compressed."""
    store = zarr.storage.MemoryStore()
    root = zarr.create_group(store, zarr_format=2, attributes=archive.attributes)
    for name, data in archive.arrays.items():
        array = root.create_array(
            name,
            shape=data.shape,
            dtype=data.dtype,
            chunks=archive.chunks.get(name) or tuple(max(1, n) for n in data.shape),
            compressors=Blosc(cname="lz4", clevel=3, shuffle=Blosc.SHUFFLE),
            fill_value=0,
            attributes=archive.array_attributes.get(name),
        )
        array[...] = data
    for name, attributes in archive.group_attributes.items():
        root[name].attrs.update(attributes)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for key, value in sorted(store._store_dict.items()):
            packed.writestr(key, value.to_bytes())
