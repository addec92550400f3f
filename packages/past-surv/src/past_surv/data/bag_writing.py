"""Writing bags: a slide's patches as one HDF5 file, which can be mapped into memory."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from past_core.atomic import replacing
from past_surv.data.bag_files import MANIFEST, BagError, first_not_finite


def write_bag(
    path: str | Path,
    features: Iterable[np.ndarray],
    coords: np.ndarray,
    manifest: Mapping[str, Any],
    *,
    dtype: str = "float16",
) -> Path:
    """Writes a bag, whole or not at all.

    The file has `features` `(M, D)` in one piece, so that it can be mapped into memory and patches be drawn
    from it without the rest being read, `coords` `(M, 2)` float64, and the manifest as JSON in the attribute
    `past`.

    Args:
        path: X.h5; replaced where it exists.
        features: blocks `(m, D)` that make up the M patches in order; a single `(M, D)` array is one block
            too.
        coords: `(M, 2)` x, y of the patches' centres in level-0 pixels.
        manifest: `encoder`, `fingerprint`, `mpp`, `patch_um`, `kind` (`grid` or `cells`), and what else there
            is to say.
        dtype: float16, or float32 for features beyond its range.

    Raises:
        BagError: another ending, no patches, blocks that do not make up M patches, NaN, infinity, or
            features that float16 cannot hold.
    """
    import h5py

    path, coords = Path(path), np.asarray(coords, np.float64)
    if path.suffix not in (".h5", ".hdf5"):
        raise BagError(f"{path}: bags are written as .h5; give the output that ending")
    if coords.ndim != 2 or coords.shape[1] != 2 or not len(coords) or not np.isfinite(coords).all():
        raise BagError(f"{path}: places of shape {coords.shape}; expected (M, 2) finite x, y of M patches")
    if dtype not in ("float16", "float32"):
        raise BagError(f"{path}: features as {dtype}; expected float16 or float32")
    blocks = iter([features] if isinstance(features, np.ndarray) else features)
    done, dataset = 0, None
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for block in blocks:
            values = np.asarray(block)
            if values.ndim != 2 or (dataset is not None and values.shape[1] != dataset.shape[1]):
                raise BagError(f"{path}: a block of features of shape {values.shape}; expected (m, D)")
            if done + len(values) > len(coords):
                raise BagError(f"{path}: more features than the {len(coords)} places of patches")
            if dataset is None:
                dataset = file.create_dataset("features", (len(coords), values.shape[1]), dtype)
            dataset[done : done + len(values)] = _converted(path, values, dtype, done)
            done += len(values)
        if dataset is None or done != len(coords):
            raise BagError(f"{path}: {done} features for {len(coords)} places of patches")
        file.create_dataset("coords", data=coords)
        file.attrs[MANIFEST] = json.dumps(dict(manifest), sort_keys=True, default=_plain)
    return path


def _converted(path: Path, values: np.ndarray, dtype: str, done: int) -> np.ndarray:
    bad = first_not_finite(values)
    if bad is not None:
        raise BagError(f"{path}: the features of patch {done + bad} are NaN or infinite")
    with np.errstate(over="ignore"):
        made = values.astype(dtype)
    bad = first_not_finite(made)
    if bad is not None:
        raise BagError(
            f"{path}: a feature of patch {done + bad} is {np.abs(values[bad]).max():.4g}, more than float16 "
            "holds (65,504); write float32"
        )
    return made


def _plain(value: Any) -> Any:
    """Numpy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
