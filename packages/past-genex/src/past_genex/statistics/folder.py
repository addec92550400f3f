"""A slide's statistics on disk: a folder of memory-mapped arrays and what they were made of."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.foreign.arrays import open_npy
from past_core.foreign.errors import ForeignError
from past_genex.statistics.moments import Moments, MomentsError, merge_moments
from past_genex.statistics.units import Unit

FORMAT = 1
META = "meta.json"
FIELDS = ("n", "mean_x", "mean_y", "xx", "xy", "yy")
_WORDS = {
    "encoder": "another encoder",
    "precision": "another precision of the encoder",
    "dim": "embeddings of another length",
    "target": "another target",
    "genes": "another list of genes",
    "regions": "other regions",
    "slide": "another slide",
    "content": "other cells or counts of the slide",
}


class StatisticsError(PastError, ValueError):
    """Statistics of a slide that cannot be made or read, or that were made of something else."""


def shapes(regions: int, d: int, genes: int) -> dict[str, tuple[int, ...]]:
    """Shape of each array over the `(R, 2)` parts."""
    parts = (regions, 2)
    return {
        "n": parts,
        "mean_x": (*parts, d),
        "mean_y": (*parts, genes),
        "xx": (*parts, d, d),
        "xy": (*parts, d, genes),
        "yy": (*parts, genes),
    }


def size_bytes(regions: int, d: int, genes: int) -> int:
    """Bytes of a folder, the merge of all parts included, if every part has cells."""
    cells = sum(int(np.prod(shape)) for shape in shapes(regions, d, genes).values())
    return 8 * (cells + cells // (2 * regions))


@dataclass(frozen=True)
class SlideStatistics:
    """Statistics of one slide by region, interior and rim apart, memory-mapped.

    Attributes:
        folder: where they are.
        meta: what they were made of: key, names, genes.
        arrays: by name of the field of `Moments`, over `(R, 2)` parts; of a part without cells, zeros.
    """

    folder: Path
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def n(self) -> np.ndarray:
        """`(R, 2)` number of cells inside and in the rim of every region."""
        return self.arrays["n"]

    @property
    def genes(self) -> pd.Index:
        """Ids of the slide's genes."""
        return pd.Index(self.meta["genes"])

    @property
    def encoder(self) -> str:
        """Fingerprint of the encoder."""
        return str(self.meta["key"]["encoder"])

    @property
    def slide(self) -> str:
        """The slide's name."""
        return str(self.meta["slide"])

    @property
    def patient(self) -> str:
        """The patient."""
        return str(self.meta["patient"])

    def moments(self, parts: np.ndarray | None = None) -> Moments:
        """Statistics of chosen parts together, over the slide's own genes.

        Args:
            parts: `(R, 2)` bool; all by default, whose merge is read and not made again.

        Raises:
            StatisticsError: another number of regions.
        """
        parts = np.ones(self.n.shape, bool) if parts is None else np.asarray(parts, bool)
        if parts.shape != self.n.shape:
            raise StatisticsError(
                f"{self.folder}: parts of shape {parts.shape}; the slide has {len(self.n)} regions with an "
                f"interior and a rim, expected {self.n.shape}"
            )
        filled = self.n > 0
        if (parts | ~filled).all():
            return _whole(self.folder, self.arrays)
        chosen = np.argwhere(parts & filled)
        if not len(chosen):
            return Moments.empty(self.arrays["mean_x"].shape[-1], self.arrays["mean_y"].shape[-1])
        return merge_moments(part_moments(self.arrays, *place) for place in chosen.tolist())

    def unit(self, parts: np.ndarray | None = None) -> Unit:
        """Chosen parts as one training or test unit, of the group of its patient."""
        return Unit(self.moments(parts), self.genes, self.slide, self.patient, self.encoder)

    def region_units(self, parts: np.ndarray | None = None) -> dict[int, Unit]:
        """Chosen parts as one unit a region with cells there, by region; each is its own group."""
        parts = np.ones(self.n.shape, bool) if parts is None else np.asarray(parts, bool)
        out = {}
        for region in np.flatnonzero((parts & (self.n > 0)).any(axis=1)).tolist():
            only = np.zeros_like(parts)
            only[region] = parts[region]
            out[region] = Unit(
                self.moments(only),
                self.genes,
                f"{self.slide} region {region}",
                f"{self.slide} region {region}",
                self.encoder,
            )
        return out

    def require(self, key: dict[str, Any]) -> Self:
        """Refuses to be taken for statistics of something else.

        Args:
            key: of what they should be, see `collect.statistics_key`; some of its entries will do.

        Raises:
            StatisticsError: an entry differs; it is named.
        """
        differing = [name for name, value in key.items() if self.meta["key"].get(name) != value]
        if differing:
            name = differing[0]
            others = "".join(f", {_WORDS.get(other, other)}" for other in differing[1:])
            found, wanted = str(self.meta["key"].get(name))[:40], str(key[name])[:40]
            raise StatisticsError(
                f"{self.folder} holds statistics of {_WORDS.get(name, name)} ({found}; expected {wanted})"
                f"{others}; collect into another folder, or remove this one"
            )
        return self


def part_moments(arrays: Mapping[str, np.ndarray], region: int, side: int) -> Moments:
    """Statistics of one part; nothing is read from disk yet."""
    values: dict[str, Any] = {name: arrays[name][region, side] for name in FIELDS}
    values["n"] = float(values["n"])
    return Moments(**values)


def _whole(folder: Path, arrays: Mapping[str, np.ndarray]) -> Moments:
    values: dict[str, Any] = {
        name: _load(folder / f"whole_{name}.npy", arrays[name].shape[2:]) for name in FIELDS
    }
    values["n"] = float(values["n"])
    return Moments(**values)


def open_statistics(folder: Path | str) -> SlideStatistics:
    """Opens the statistics of a slide; arrays are memory-mapped and read when they are used.

    Raises:
        StatisticsError: no such folder, not one of statistics, of another format, or damaged (the file is
            named).
    """
    folder = Path(folder)
    path = folder / META
    if not path.is_file():
        raise StatisticsError(
            f"{folder}: no {META} there; it holds no statistics of a slide, collect them first"
        )
    try:
        meta = json.loads(path.read_text())
        found = (meta["format"], meta["key"]["encoder"], meta["slide"], meta["patient"])
        regions, d, genes = int(meta["n_regions"]), int(meta["key"]["dim"]), len(meta["genes"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise StatisticsError(f"{path}: not the description of a slide's statistics ({error!r})") from error
    if found[0] != FORMAT:
        raise StatisticsError(f"{path}: format {found[0]!r}; this version reads {FORMAT}, collect them again")
    arrays = {name: _load(folder / f"{name}.npy", shape) for name, shape in shapes(regions, d, genes).items()}
    for name in FIELDS:
        _load(folder / f"whole_{name}.npy", arrays[name].shape[2:])
    return SlideStatistics(folder, meta, arrays)


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float64 array, memory-mapped, after its header and size are what they should be."""
    try:
        array = open_npy(path)
    except (OSError, ForeignError) as error:
        raise StatisticsError(
            f"{path}: missing or damaged ({error}); collect the statistics again"
        ) from error
    if array.shape != shape or array.dtype != np.float64:
        raise StatisticsError(
            f"{path}: {array.dtype} of shape {array.shape}; expected float64 of {shape}, collect them again"
        )
    return array


def write_statistics(folder: Path, meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Adds the merge of all parts and the description to a folder that holds the parts' arrays."""
    filled = np.argwhere(arrays["n"] > 0).tolist()
    try:
        whole = merge_moments(part_moments(arrays, *place) for place in filled)
    except MomentsError as error:
        raise StatisticsError(f"{meta['slide']}: {error}") from error
    for name in FIELDS:
        np.save(
            folder / f"whole_{name}.npy", np.asarray(getattr(whole, name), np.float64), allow_pickle=False
        )
    (folder / META).write_text(json.dumps({"format": FORMAT} | meta, indent=1) + "\n")
