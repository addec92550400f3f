"""How a slide store is laid out on disk, and what tells that it is whole."""

import json
import math
from collections.abc import Mapping
from typing import Any

from past_core.errors import PastError
from past_core.remote import Location, RemotePath, locate

FORMAT = 1
"""Version of `attrs["past"]`; a reader refuses every other one."""

IMAGE = "he"
TABLE = "cells"


class StoreError(PastError, ValueError):
    """A slide store is damaged, foreign, empty or of another format version."""


class StoreNotFoundError(PastError, FileNotFoundError):
    """There is no slide store at the path."""


def is_store(path: str | Location) -> bool:
    """Whether a path or URL looks like a slide store, of whatever format version.

    Raises:
        RemoteError: A URL that cannot be reached, or may not be read.
    """
    try:
        attributes = json.loads((locate(path) / "zarr.json").read_text())["attributes"]
    except PastError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(attributes, dict) and isinstance(attributes.get("past"), dict)


def read_manifest(path: Location) -> Mapping[str, Any]:
    """Reads the manifest of a slide store.

    Raises:
        StoreNotFoundError: If nothing is there.
        StoreError: If it is no slide store, of another format version, or the manifest lacks something.
        RemoteError: If the server cannot be reached, or refuses.
    """
    metadata = path / "zarr.json"
    try:
        content = read_json(metadata)
    except StoreError:
        if not path.exists():
            raise StoreNotFoundError(_no_store(path)) from None
        if not metadata.is_file():
            raise StoreError(
                f"{path} is not a slide store (no zarr.json in it); make one with `past ingest`"
            ) from None
        raise
    manifest = content.get("attributes", {}).get("past")
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


def _no_store(path: Location) -> str:
    if isinstance(path, RemotePath):
        return f"no slide store at {path} (no zarr.json there); is it uploaded, and the URL right?"
    return f"no slide store at {path}; make one with `past ingest`"


def count_chunks(metadata: Mapping[str, Any]) -> int:
    """Chunks that a zarr v3 array has, 0 for a group or a scalar.

    Args:
        metadata: The content of its zarr.json.
    """
    if metadata.get("node_type") != "array" or not metadata["shape"]:
        return 0  # scalars in a table may stand for None, which has no chunk
    chunk_shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    return math.prod(
        -(-size // max(chunk, 1)) for size, chunk in zip(metadata["shape"], chunk_shape, strict=True)
    )


def read_json(path: Location) -> dict[str, Any]:
    """Reads a file of zarr metadata.

    Raises:
        StoreError: If it is missing, damaged, or holds something else.
        RemoteError: If the server cannot be reached, or refuses.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(
            f"{path} is missing; the store is truncated, make it again with `past ingest`"
        ) from None
    except OSError as error:
        if isinstance(error, PastError):
            raise
        raise StoreError(
            f"{path} cannot be read ({error}); make the store again with `past ingest`"
        ) from error
    return parse_json(content, path)


def parse_json(content: bytes, path: Location) -> dict[str, Any]:
    """The content of a file of zarr metadata.

    Raises:
        StoreError: If it is damaged, or holds something else.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}); make the store again with `past ingest`"
        ) from error
    if not isinstance(parsed, dict):
        raise StoreError(f"{path} holds no metadata; make the store again with `past ingest`")
    return parsed
