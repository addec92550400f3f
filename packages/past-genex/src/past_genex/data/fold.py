"""What a split is: folds of training and test parts of slides, that say what they hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from past_genex.data.leakage import Leakage, check_leakage
from past_genex.data.regions import Regions
from past_genex.data.slides import ExpressionSlide, union_genes

ABOUT = {
    "intra": "held-out regions of the same specimen, patient by patient",
    "inter": "each patient in turn, trained on the other patients of the same cancer type",
    "cross-methods": "each cancer type in turn, trained on the others; only types with two patients or more, "
    "as in the methods of the paper (6 types, 24 slices)",
    "cross-figure": "each cancer type in turn, trained on all others; every type, as in the figure of the "
    "paper (14 types against one)",
    "leave-patients-out": "each patient in turn, trained on all other patients whatever their cancer type",
    "random": "cells dealt at random: LEAKS, only to show what leakage adds; not a result",
}
"""Every split by name, in words."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Parts of slides that train, and parts that test.

    Attributes:
        name: such as the held-out patient.
        train: slide number -> `(R, 2)` bool, parts of that slide's regions.
        test: likewise.
    """

    name: str
    train: Mapping[int, np.ndarray]
    test: Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class Split:
    """Folds over slides.

    Attributes:
        name: "intra", "inter", "cross-methods", "cross-figure", "leave-patients-out" or "random".
        setting: "intra", "inter", "cross", "patients" or "random".
        slides: all slides that take part; folds name them by number.
        regions: the partition of each.
        folds: the folds.
        excluded: cancer type, patient or slide -> why it takes no part.
        field_um: side of the field around a cell that training and test must not share; 0 where they share
            no slide.
    """

    name: str
    setting: str
    slides: tuple[ExpressionSlide, ...]
    regions: tuple[Regions, ...]
    folds: tuple[Fold, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)
    field_um: float = 0.0

    def genes(self, fold: Fold) -> pd.Index:
        """Genes measured on a training slide and on a test slide, in the order of `union_genes`."""
        train = union_genes([self.slides[number] for number in sorted(fold.train)])
        test = union_genes([self.slides[number] for number in sorted(fold.test)])
        both = self._all_genes
        return both[both.isin(train) & both.isin(test)]

    @cached_property
    def _all_genes(self) -> pd.Index:
        return union_genes(self.slides)

    def cells(self, parts: Mapping[int, np.ndarray]) -> int:
        """Number of cells in one side of a fold."""
        return sum(int(self.regions[number].sizes()[chosen].sum()) for number, chosen in parts.items())

    def leakage(self) -> Leakage:
        """What training and test have in common, computed from the cells once."""
        return self._leakage

    @cached_property
    def _leakage(self) -> Leakage:
        return check_leakage(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything that `describe` says, in JSON's types."""
        return {
            "name": self.name,
            "setting": self.setting,
            "about": ABOUT.get(self.name, self.name),
            "slides": [
                {
                    "slide": slide.name,
                    "patient": slide.patient,
                    "cancer_type": slide.cancer_type,
                    "cells": int(slide.n_cells),
                    "genes": len(slide.genes),
                    "regions": regions.n_regions,
                }
                for slide, regions in zip(self.slides, self.regions, strict=True)
            ],
            "folds": [self._fold_dict(fold) for fold in self.folds],
            "excluded": dict(self.excluded),
            "leakage": self.leakage().to_dict(),
        }

    def _fold_dict(self, fold: Fold) -> dict[str, Any]:
        sides: dict[str, Any] = {}
        for side, parts in (("train", fold.train), ("test", fold.test)):
            slides = [self.slides[number] for number in sorted(parts)]
            sides[side] = {
                "patients": sorted({slide.patient for slide in slides}),
                "slides": [slide.name for slide in slides],
                "cells": self.cells(parts),
            }
        used = {**fold.train, **fold.test}
        buffer = sum(self.regions[number].region.size for number in used)
        buffer -= sides["train"]["cells"] + sides["test"]["cells"]
        return {"fold": fold.name, "genes": len(self.genes(fold)), "buffer_cells": int(buffer), **sides}

    def describe(self) -> str:
        """Patients, slides, genes and cells of every fold, what is excluded, and the leakage check."""
        content = self.to_dict()
        patients = {slide["patient"] for slide in content["slides"]}
        lines = [
            f"Split {self.name}: {content['about']}",
            f"{len(self.slides)} slides of {len(patients)} patients, {len(self.folds)} folds",
        ]
        lines += [
            f"  slide {s['slide']}: patient {s['patient']}, {s['cancer_type']}, {s['cells']:,} cells, "
            f"{s['genes']:,} genes, {s['regions']} regions"
            for s in content["slides"]
        ]
        for fold in content["folds"]:
            train, test = fold["train"], fold["test"]
            buffer = f", {fold['buffer_cells']:,} in the buffer" if fold["buffer_cells"] else ""
            lines.append(
                f"  fold {fold['fold']}: {fold['genes']:,} genes; trains on {_side(train)}; "
                f"tests on {_side(test)}{buffer}"
            )
        lines += [f"  excluded {what}: {why}" for what, why in self.excluded.items()]
        return "\n".join([*lines, f"Leakage check: {self.leakage()}"])


def _side(side: Mapping[str, Any]) -> str:
    names, number = side["patients"], len(side["slides"])
    shown = ", ".join(names) if len(names) <= 6 else f"{len(names)} patients"
    return f"{shown} ({number} slide{'' if number == 1 else 's'}, {side['cells']:,} cells)"
