"""Whether training and test cells are apart, computed from the cells themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from past_genex.data.fold import Fold, Split

SAME_SPECIMEN = ("intra", "random")
"""Settings that train on other cells of the test patients, by definition."""
TOLERANCE = 1e-6
"""Relative; distances are differences of products of pixels and pixel sizes."""


@dataclass(frozen=True)
class FoldLeakage:
    """What both sides of one fold have in common.

    Attributes:
        fold: its name.
        patients: that train and test.
        slides: that train and test.
        cells: number of cells that train and test.
        gap_um: smallest distance between a training and a test cell of one slide, as the larger of the
            differences in x and y: square fields of side f overlap where it is below f. Infinite where no
            slide does both.
    """

    fold: str
    patients: tuple[str, ...]
    slides: tuple[str, ...]
    cells: int
    gap_um: float


@dataclass(frozen=True)
class Leakage:
    """The check of a whole split.

    Attributes:
        setting: of the split.
        field_um: side of the field around a cell; fields of training and test cells must not overlap.
        folds: what was found, fold by fold.
    """

    setting: str
    field_um: float
    folds: tuple[FoldLeakage, ...]

    @property
    def clean(self) -> bool:
        """Whether no fold leaks; a random split never is."""
        return self.setting != "random" and not any(self.found())

    def found(self) -> Iterator[str]:
        """What is wrong, in words, fold by fold."""
        for fold in self.folds:
            if fold.cells:
                yield f"fold {fold.fold}: {fold.cells} cells train and test"
            if fold.patients and self.setting not in SAME_SPECIMEN:
                yield f"fold {fold.fold}: {', '.join(fold.patients)} on both sides"
            elif fold.gap_um < self.field_um * (1 - TOLERANCE):
                yield (
                    f"fold {fold.fold}: a training cell lies {fold.gap_um:.1f} µm from a test cell, within "
                    f"the field of {self.field_um:g} µm"
                )

    def __str__(self) -> str:
        if self.setting == "random":
            return (
                "LEAKS ON PURPOSE: cells were dealt at random, so that test cells lie among training cells "
                f"(down to {min(fold.gap_um for fold in self.folds):.1f} µm); only to show what leakage adds"
            )
        problems = list(self.found())
        if problems:
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            return f"LEAKS: {'; '.join(problems[:5])}{more}"
        if self.setting in SAME_SPECIMEN:
            gap = min(fold.gap_um for fold in self.folds)
            return (
                f"clean: the same specimens train, every training cell at least {gap:.1f} µm from every test "
                f"cell (fields of {self.field_um:g} µm do not overlap)"
            )
        return "clean: no patient and no slide on both sides"

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types; an infinite gap is null."""
        return {
            "clean": self.clean,
            "summary": str(self),
            "field_um": self.field_um,
            "folds": [
                {
                    "fold": fold.fold,
                    "patients_on_both_sides": list(fold.patients),
                    "slides_on_both_sides": list(fold.slides),
                    "cells_on_both_sides": fold.cells,
                    "gap_um": fold.gap_um if np.isfinite(fold.gap_um) else None,
                }
                for fold in self.folds
            ],
        }


def check_leakage(split: "Split") -> Leakage:
    """Compares the training and test cells of every fold."""
    return Leakage(split.setting, split.field_um, tuple(_fold(split, fold) for fold in split.folds))


def smallest_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Smallest distance between two sets of points, as the larger of the differences in x and y.

    Args:
        first: `(N, 2)`.
        second: `(M, 2)`.

    Returns:
        Infinite where one set is empty.
    """
    if not len(first) or not len(second):
        return float("inf")
    many, few = (first, second) if len(first) >= len(second) else (second, first)
    return float(cKDTree(many).query(few, p=np.inf)[0].min())


def _fold(split: "Split", fold: "Fold") -> FoldLeakage:
    sides = [
        {number: split.regions[number].cells(parts) for number, parts in side.items()}
        for side in (fold.train, fold.test)
    ]
    train, test = ({n: cells for n, cells in side.items() if cells.any()} for side in sides)
    patients = [sorted({split.slides[number].patient for number in side}) for side in (train, test)]
    common = sorted(set(train) & set(test))
    gap = float("inf")
    for number in common:
        xy = split.slides[number].xy_um
        gap = min(gap, smallest_gap(xy[train[number]], xy[test[number]]))
    return FoldLeakage(
        fold.name,
        tuple(name for name in patients[0] if name in patients[1]),
        tuple(split.slides[number].name for number in common),
        sum(int(np.count_nonzero(train[number] & test[number])) for number in common),
        gap,
    )
