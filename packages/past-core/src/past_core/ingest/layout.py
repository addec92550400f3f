"""How a slide store is laid out on disk, and what tells that it is whole."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from past_core.errors import PastError

FORMAT = 1
"""Version of `attrs["past"]`; a reader refuses every other one."""

IMAGE = "he"
TABLE = "cells"


class StoreError(PastError, ValueError):
    """A slide store is damaged, foreign, empty or of another format version."""


class StoreNotFoundError(PastError, FileNotFoundError):
    """There is no slide store at the path."""


def is_store(path: str | Path) -> bool:
    """Whether a path looks like a slide store, of whatever format version."""
    try:
        attributes = json.loads((Path(path) / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(attributes, dict) and isinstance(attributes.get("past"), dict)


def read_manifest(path: Path) -> Mapping[str, Any]:
    """Reads the manifest of a slide store.

    Raises:
        StoreNotFoundError: If nothing is there.
        StoreError: If it is no slide store, of another format version, or the manifest lacks something.
    """
    if not path.exists():
        raise StoreNotFoundError(f"no slide store at {path}; make one with `past ingest`")
    if not (path / "zarr.json").is_file():
        raise StoreError(f"{path} is not a slide store (no zarr.json in it); make one with `past ingest`")
    manifest = read_json(path / "zarr.json").get("attributes", {}).get("past")
    if not isinstance(manifest, dict):
        raise StoreError(
            f'{path} is a zarr store but has no attrs["past"]; '
            "turn a SpatialData store into a slide store with `past ingest --spatialdata`"
        )
    if manifest.get("format") != FORMAT:
        raise StoreError(
            f"{path} has format version {manifest.get('format')!r}, this past-core reads version {FORMAT}; "
            "make the store again with `past ingest`"
        )
    required = ("name", "mpp", "assay", "organism", "modality", "block_size", "blocks", "neighbors", "counts")
    absent = [key for key in required if key not in manifest]
    if absent:
        raise StoreError(
            f'{path}: attrs["past"] lacks {", ".join(absent)}; make the store again with `past ingest`'
        )
    return manifest


def missing_chunks(metadata: Path) -> int:
    """Counts the chunks that a zarr v3 array lacks on disk, 0 for a group or a scalar.

    Args:
        metadata: Its zarr.json.
    """
    array = read_json(metadata)
    if array.get("node_type") != "array" or not array["shape"]:
        return 0  # scalars in a table may stand for None, which has no chunk
    chunk_shape = array["chunk_grid"]["configuration"]["chunk_shape"]
    expected = math.prod(
        -(-size // max(chunk, 1)) for size, chunk in zip(array["shape"], chunk_shape, strict=True)
    )
    chunks = metadata.parent / "c"
    found = sum(len(files) for _, _, files in os.walk(chunks))
    return max(expected - found, 0)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file of zarr metadata.

    Raises:
        StoreError: If it is missing, damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise StoreError(
            f"{path} is missing; the store is truncated, make it again with `past ingest`"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}); make the store again with `past ingest`"
        ) from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} holds no metadata; make the store again with `past ingest`")
    return content
