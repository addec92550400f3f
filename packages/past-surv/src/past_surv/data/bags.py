"""Bags: the patches of a slide as an encoder sees them, read when they are needed."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from past_core.slides import SLIDE_SUFFIXES
from past_surv.data.bag_files import (
    SUFFIXES,
    BagError,
    BagNotFoundError,
    commonest_step,
    first_not_finite,
    opened,
)

__all__ = ["SUFFIXES", "Bag", "BagError", "BagFolder", "BagNotFoundError", "read_bag", "slide_name"]

logger = logging.getLogger(__name__)

SLIDES = SLIDE_SUFFIXES
"""Endings of slides, which a slide's id may or may not carry."""
FOLDERS = ("pt_files", "h5_files", "features_*")
"""Folders in which CLAM and TRIDENT put their bags."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Bag:
    """The patches of one slide; the features stay in the file until they are asked for.

    Attributes:
        slide: its name, without a slide's ending.
        path: of the file.
        dim: length D of a patch's vector.
        patches: number M of patches.
        encoder: what made them, where the file says so.
        mpp: µm per pixel of the encoder's input, where the file says so.
        patch_um: side in µm of the square that a patch stands for, where the file says so.
        kind: `grid` of tiles, or patches around `cells`.
        manifest: all that the file says of how it was made.
    """

    slide: str
    path: Path
    dim: int
    patches: int
    encoder: str | None = None
    mpp: float | None = None
    patch_um: float | None = None
    kind: Literal["grid", "cells"] | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def features(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The patches' vectors.

        Args:
            rows: which patches, in which order; all without.

        Returns:
            `(M, D)` float16 or float32, read-only where the file is mapped into memory.

        Raises:
            BagError: rows that there are not, damaged data, NaN or infinity.
        """
        if rows is not None:
            rows = np.asarray(rows, np.int64)
            if len(rows) and not (rows.min() >= 0 and rows.max() < self.patches):
                raise BagError(
                    f"{self.path}: row {rows.min() if rows.min() < 0 else rows.max()} of a bag of "
                    f"{self.patches} patches"
                )
        with opened(self.path) as content:
            if (content.facts.patches, content.facts.dim) != (self.patches, self.dim):
                raise BagError(
                    f"{self.path}: {content.facts.patches} x {content.facts.dim} features, {self.patches} x "
                    f"{self.dim} when it was opened; it was replaced since"
                )
            values = content.features(rows)
            if values.dtype not in (np.float16, np.float32):
                values = values.astype(np.float32)
            bad = first_not_finite(values)
        if bad is not None:
            patch = bad if rows is None else int(rows[bad])
            raise BagError(f"{self.path}: the features of patch {patch} are NaN or infinite; make it again")
        return values

    def coords(self) -> np.ndarray | None:
        """Where the patches are: `(M, 2)` x, y of their centres in level-0 pixels; None where not known.

        CLAM and TRIDENT write top-left corners. Half a patch is added to them: the side that TRIDENT notes,
        of CLAM's files the commonest step between neighbours.

        Raises:
            BagError: places that are not finite, or not one a patch.
        """
        with opened(self.path) as content:
            places, facts = content.coords(), content.facts
        if places is None:
            return None
        if not np.isfinite(places).all():
            raise BagError(f"{self.path}: places of patches that are NaN or infinite; make it again")
        if facts.centred:
            return places
        side = facts.side or commonest_step(places)
        if side is None:
            logger.warning(
                "%s: corners of patches whose size is not known; their places are not used", self.path
            )
            return None
        return places + side / 2

    def __repr__(self) -> str:
        made = f" by {self.encoder}" if self.encoder else ""
        return f"Bag({self.slide!r}, {self.patches:,} x {self.dim}{made})"


def slide_name(name: str | Path) -> str:
    """A slide's name without its folder and without a slide's ending, whatever else has dots in it."""
    name = Path(name).name
    ending = next((ending for ending in SLIDES if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] if len(ending) < len(name) else name


def read_bag(path: str | Path) -> Bag:
    """Opens a bag of patches.

    Read are HDF5 files of CLAM, TRIDENT and `past bags` (`features` `(M, D)` or `(1, M, D)`, `coords`),
    zarr groups of the same names, `.h5ad` and `.zarr` of `past embed`, CLAM's `.pt` tensors, `.npy` arrays.

    Raises:
        BagNotFoundError: nothing is there.
        BagError: another kind of file, damaged, empty, or without features.
    """
    path = Path(path)
    with opened(path) as content:
        facts = content.facts
    said = facts.facts
    return Bag(
        slide=slide_name(path.name[: -len(path.suffix)]),
        path=path,
        dim=facts.dim,
        patches=facts.patches,
        encoder=_text(said.get("encoder")),
        mpp=_number(said.get("mpp")),
        patch_um=_number(said.get("patch_um")),
        kind=said.get("kind") if said.get("kind") in ("grid", "cells") else None,
        manifest=dict(said),
    )


class BagFolder:
    """A folder of bags of one encoder, one a slide.

    Args:
        folder: with the bags in it, or CLAM's of `pt_files` and `h5_files`, or TRIDENT's of `features_*`.
        encoder: which encoder's are meant: a folder in `folder` of that name (or `features_NAME`), or else
            what the bags must say of themselves where they say anything.

    Raises:
        BagNotFoundError: no such folder, or no bag in it.
        BagError: a slide has two bags of one kind, or several encoders have their bags there.
    """

    def __init__(self, folder: str | Path, encoder: str | None = None) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise BagNotFoundError(f"{folder}: no such folder of bags; `past bags` makes one")
        self.encoder, named = encoder, None
        if encoder is not None:
            names = (encoder, f"features_{encoder}")
            named = next((self.folder / n for n in names if (self.folder / n).is_dir()), None)
        self._named = named is not None
        self._paths = _find_paths(named or self.folder)
        if not self._paths:
            raise BagNotFoundError(
                f"{named or self.folder}: no bags in it; expected files that end in {', '.join(SUFFIXES)}"
            )
        self._bags: dict[str, Bag] = {}

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def slides(self) -> list[str]:
        """Names of the slides that have a bag, sorted."""
        return sorted(self._paths)

    def find(self, slide: str) -> Bag | None:
        """The bag of a slide, None where there is none.

        Args:
            slide: its id, with or without a slide's ending such as `.svs`.

        Raises:
            BagError: it does not fit the other bags: another length, or another encoder.
        """
        name = next((name for name in (slide_name(slide), Path(slide).name) if name in self._paths), None)
        if name is None:
            return None
        bag = self._open(name)
        self._check(bag, self._first)
        return bag

    @cached_property
    def _first(self) -> Bag:
        return self._open(self.slides[0])

    @property
    def dim(self) -> int:
        """Length of a patch's vector."""
        return self._first.dim

    def describe(self) -> str:
        """How many bags of what, in one line."""
        first = self._first
        parts = [f"{len(self):,} bags of {first.dim} wide patches"]
        parts += [f"by {first.encoder}"] if first.encoder else []
        parts += [f"at {first.mpp:g} µm per pixel"] if first.mpp else []
        parts += [{"grid": "on a grid", "cells": "around cells"}[first.kind]] if first.kind else []
        return f"{self.folder}: {', '.join(parts)}"

    def _open(self, name: str) -> Bag:
        if name not in self._bags:
            self._bags[name] = read_bag(self._paths[name])
        return self._bags[name]

    def _check(self, bag: Bag, first: Bag) -> None:
        if bag.dim != first.dim:
            raise BagError(
                f"{bag.path}: {bag.dim} wide patches, {first.dim} wide in {first.path.name}; one folder "
                "holds the bags of one encoder"
            )
        ours, theirs = (b.manifest.get("fingerprint") or b.encoder for b in (bag, first))
        if ours and theirs and ours != theirs:
            raise BagError(
                f"{bag.path}: made by {bag.encoder or 'another encoder'} ({str(ours)[:12]}), "
                f"{first.path.name} by {first.encoder} ({str(theirs)[:12]}); one folder holds "
                "the bags of one encoder"
            )
        if self.encoder and not self._named and bag.encoder and bag.encoder != self.encoder:
            raise BagError(f"{bag.path}: made by {bag.encoder}, asked for is {self.encoder}")

    def __repr__(self) -> str:
        return f"BagFolder({str(self.folder)!r}, {len(self)} bags)"


def _find_paths(folder: Path) -> dict[str, Path]:
    """By slide; of a slide with bags of several kinds the first of `SUFFIXES`."""
    found = _bags_in(folder)
    if not found:
        inside = sorted({path for pattern in FOLDERS for path in folder.glob(pattern) if path.is_dir()})
        trident = [path.name for path in inside if path.name.startswith("features_")]
        if len(trident) > 1:
            raise BagError(
                f"{folder}: bags of several encoders ({', '.join(trident)}); name one of the folders"
            )
        found = [path for inner in inside for path in _bags_in(inner)]
    paths: dict[str, Path] = {}
    ranks: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in found:
        rank = SUFFIXES.index(path.suffix.lower())
        ranks[slide_name(path.name[: -len(path.suffix)])].append((rank, path))
    for name, several in ranks.items():
        several.sort()
        if len(several) > 1 and several[0][0] == several[1][0]:
            raise BagError(f"slide {name} has two bags: {several[0][1]} and {several[1][1]}; remove one")
        paths[name] = several[0][1]
    return paths


def _bags_in(folder: Path) -> list[Path]:
    hidden = re.compile(r"^\.")
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not hidden.match(path.name)
    )


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if np.isfinite(number) and number > 0 else None
