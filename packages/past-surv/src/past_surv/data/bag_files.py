"""Readers of the files that hold a slide's patches: HDF5, zarr, AnnData, tensors and arrays."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from past_core.errors import PastError
from past_core.foreign.arrays import open_npy
from past_core.foreign.errors import ForeignError
from past_core.foreign.sizes import check_hdf5, check_zarr
from past_core.foreign.tensors import load_tensors

logger = logging.getLogger(__name__)

SUFFIXES = (".h5", ".hdf5", ".zarr", ".h5ad", ".pt", ".npy")
"""Endings of bags, the preferred first."""
FEATURES = ("features", "obsm/past_image", "feats")
"""Where the features lie in a file of several arrays: CLAM's and TRIDENT's name, `past embed`'s, others'."""
COORDS = ("coords", "obsm/spatial")
MANIFEST = "past"
"""Attribute of a bag that `write_bag` wrote: its manifest as JSON."""
READ_ROWS = 4096
"""Rows read at a time where a file is not mapped into memory."""
MAX_BYTES = 32 * 2**30
"""Largest features that are read: a damaged or hostile header must not ask for all memory."""


class BagError(PastError, ValueError):
    """A bag of patches that cannot be used."""


class BagNotFoundError(PastError, FileNotFoundError):
    """There is no bag, or no folder of bags, at that path."""


@dataclass(frozen=True, kw_only=True)
class BagFacts:
    """What a file says of its bag without its features being read.

    Attributes:
        patches: number of patches.
        dim: length of a patch's vector.
        centred: whether coordinates are patch centres; else they are top-left corners.
        side: of a patch in level-0 pixels, where stated.
        facts: `encoder`, `fingerprint`, `mpp`, `patch_um`, `kind`, ... where stated.
    """

    patches: int
    dim: int
    centred: bool = False
    side: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Content:
    """An open file's arrays.

    Args:
        path: for messages.
        features: `(M, D)` or `(1, M, D)`, anything that slices to an array.
        coords: `(M, 2)`, or None.
        facts: what `BagFacts` says beside the shape.
    """

    def __init__(self, path: Path, features: Any, coords: Any = None, **facts: Any) -> None:
        shape = tuple(getattr(features, "shape", ()))
        if len(shape) == 3 and shape[0] == 1:
            shape, self._leading = shape[1:], True
        else:
            self._leading = False
        if len(shape) != 2:
            raise BagError(f"{path}: features of shape {shape}; expected (M, D) or (1, M, D)")
        if 0 in shape:
            raise BagError(f"{path}: features of shape {shape}; a bag has at least one patch")
        kind = np.dtype(features.dtype)
        if kind.kind not in "fiu":
            raise BagError(f"{path}: features of type {kind}; expected numbers")
        if shape[0] * shape[1] * kind.itemsize > MAX_BYTES:
            raise BagError(
                f"{path}: features of shape {shape}, more than {MAX_BYTES // 2**30} GiB; is the file damaged?"
            )
        self.path, self._features, self._coords = path, features, coords
        self.facts = BagFacts(patches=int(shape[0]), dim=int(shape[1]), **facts)

    def features(self, rows: np.ndarray | None) -> np.ndarray:
        """`(M, D)`, or the wanted rows in the wanted order; an array in memory or mapped from the file."""
        values = self._features
        if isinstance(values, np.ndarray):
            values = values[0] if self._leading else values
            return values if rows is None else values[rows]
        wanted = np.arange(self.facts.patches) if rows is None else rows
        out = None
        # Whole chunks in the file's order: reading row by row would unpack each chunk again and again.
        step = max(READ_ROWS, _chunk_rows(values, self._leading))
        block = wanted // step
        order = np.argsort(block, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(block[order])) + 1) if len(order) else ():
            inside = wanted[part]
            start, stop = int(inside.min()), int(inside.max()) + 1
            read = np.asarray(values[0, start:stop] if self._leading else values[start:stop])
            if out is None:
                out = np.empty((len(wanted), read.shape[1]), read.dtype)
            out[part] = read[inside - start]
        return np.empty((0, self.facts.dim), np.float32) if out is None else out

    def coords(self) -> np.ndarray | None:
        """`(M, 2)` float64 x, y as they stand in the file.

        Raises:
            BagError: another number of places than patches.
        """
        if self._coords is None:
            return None
        places = np.asarray(self._coords[...], np.float64)
        places = places[0] if places.ndim == 3 and len(places) == 1 else places
        if places.shape != (self.facts.patches, 2):
            raise BagError(
                f"{self.path}: coords of shape {places.shape} for {self.facts.patches} patches; expected one "
                "x, y a patch"
            )
        return places


@contextmanager
def opened(path: Path) -> Iterator[Content]:
    """Opens a bag's file.

    Raises:
        BagNotFoundError: nothing is there.
        BagError: not a file that is read, damaged, or without features.
    """
    reader = _reader(path)
    if not path.exists():
        raise BagNotFoundError(f"{path}: no such bag")
    try:
        with reader(path) as content:
            yield content
    except PastError:
        raise
    except Exception as error:  # whatever h5py, zarr, torch or numpy raise on damaged files
        raise BagError(f"{path}: cannot be read as a bag of patches ({error}); make it again") from error


def _reader(path: Path) -> Callable:
    suffix = path.suffix.lower()
    readers = {".zarr": _zarr, ".pt": _tensor, ".npy": _array}
    if suffix not in SUFFIXES:
        raise BagError(f"{path}: not a bag of patches; expected a file that ends in {', '.join(SUFFIXES)}")
    return readers.get(suffix, _hdf5)


@contextmanager
def _hdf5(path: Path) -> Iterator[Content]:
    import h5py

    check_hdf5(path)
    with h5py.File(path, "r") as file:
        yield _group(path, file, lambda array: _mapped(path, array))


@contextmanager
def _zarr(path: Path) -> Iterator[Content]:
    import zarr

    check_zarr(path)
    yield _group(path, zarr.open_group(path, mode="r"), lambda array: array)


@contextmanager
def _tensor(path: Path) -> Iterator[Content]:
    import torch

    try:
        found = load_tensors(path)
    except ForeignError as error:  # damaged, or a pickle of more than tensors, which is never run
        raise BagError(
            f"{path}: cannot be read as a tensor ({error}); expected what "
            "torch.save(features) writes for a tensor (M, D)"
        ) from error
    named = found if isinstance(found, dict) else {"features": found}
    features = next((named[name] for name in FEATURES if name in named), None)
    if not isinstance(features, torch.Tensor):
        what = f"a dict of {', '.join(map(str, named))}" if isinstance(found, dict) else type(found).__name__
        raise BagError(f"{path}: holds {what}; expected a tensor (M, D), alone or as 'features'")
    coords = named.get("coords")
    yield Content(path, _numpy(features), _numpy(coords) if isinstance(coords, torch.Tensor) else None)


@contextmanager
def _array(path: Path) -> Iterator[Content]:
    yield Content(path, open_npy(path))


def _numpy(tensor: Any) -> np.ndarray:
    import torch

    # numpy has no bfloat16.
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return tensor.detach().numpy()


def _group(path: Path, group: Any, view: Callable[[Any], Any]) -> Content:
    """A group of arrays of h5py or of zarr, which are asked in the same words."""
    where = next((name for name in FEATURES if name in group), None)
    if where is None:
        found = ", ".join(sorted(map(str, group.keys()))[:8]) or "nothing"
        raise BagError(f"{path}: no dataset 'features' (of a bag) or obsm/past_image; it has {found}")
    places = next((name for name in COORDS if name in group), None)
    coords = None if places is None else group[places]
    facts, centred, side = {}, places == "obsm/spatial", None
    if MANIFEST in group.attrs:
        facts, centred = json.loads(group.attrs[MANIFEST]), True
    elif f"uns/{MANIFEST}" in group:
        facts = _embedded(group)
    else:
        side, facts = _trident(group[where], coords)
    return Content(path, view(group[where]), coords, centred=centred, side=side, facts=facts)


def _embedded(group: Any) -> dict[str, Any]:
    """The manifest of `past embed`, in a bag's words."""
    from anndata.io import read_elem

    found = dict(read_elem(group[f"uns/{MANIFEST}"]))
    kind = {"tiles": "grid", "cells": "cells"}.get(str(found.get("kind")))
    return {**found, "kind": kind, "patch_um": found.get("tile_um")}


def _trident(features: Any, coords: Any) -> tuple[float | None, dict[str, Any]]:
    """What TRIDENT notes beside its arrays; CLAM notes nothing."""
    own = dict(features.attrs)
    noted = {} if coords is None else dict(coords.attrs)
    side = noted.get("patch_size_level0")
    facts: dict[str, Any] = {"kind": "grid"} if coords is not None else {}
    if "encoder" in own:
        facts["encoder"] = _text(own["encoder"])
    return (float(side) if side is not None and float(side) > 0 else None), facts


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _mapped(path: Path, array: Any) -> Any:
    """An HDF5 dataset that lies in the file in one piece, mapped into memory; others as they are."""
    offset = array.id.get_offset() if array.chunks is None and not array.external else None
    if offset is None:
        return array
    return np.memmap(path, array.dtype, "r", offset, array.shape)


def _chunk_rows(array: Any, leading: bool) -> int:
    chunks = getattr(array, "chunks", None)
    return int(chunks[1 if leading else 0]) if chunks else 1


def first_not_finite(values: np.ndarray) -> int | None:
    """The first row of `(M, D)` that holds NaN or infinity; None where there is none."""
    if not np.issubdtype(values.dtype, np.floating):
        return None
    for start in range(0, len(values), READ_ROWS):
        part = values[start : start + READ_ROWS]
        # NaN and infinity survive a sum, which is several times faster than looking at every number.
        with np.errstate(all="ignore"):
            suspect = np.flatnonzero(~np.isfinite(part.sum(axis=1, dtype=np.float32)))
        bad = suspect[~np.isfinite(part[suspect]).all(axis=1)]
        if len(bad):
            return start + int(bad[0])
    return None


def commonest_step(places: np.ndarray) -> float | None:
    """The distance at which patches most often follow one another along x or y; None where none does."""
    steps = []
    for along, across in ((0, 1), (1, 0)):
        order = np.lexsort((places[:, along], places[:, across]))
        there = places[order]
        step = np.diff(there[:, along])
        steps.append(step[(np.diff(there[:, across]) == 0) & (step > 0)])
    values, counts = np.unique(np.concatenate(steps), return_counts=True)
    return float(values[counts.argmax()]) if len(values) else None
