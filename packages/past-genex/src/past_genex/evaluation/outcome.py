"""What runs of an evaluation share: what they show, and what files say of slides and software."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from past_core.errors import PastError

if TYPE_CHECKING:
    from rich.table import Table

    from past_genex.data.slides import ExpressionSlide

Say = Callable[[str], None]
"""Called with what is going on."""


class StudyError(PastError, ValueError):
    """Nothing of what was asked can be evaluated."""


@dataclass(frozen=True)
class Outcome:
    """What is shown of an evaluation: tables, notes on what was left out, and the files' names."""

    tables: "list[Table]"
    notes: list[str]
    files: list[str]


def slides_table(slides: "Sequence[ExpressionSlide]") -> list[dict[str, Any]]:
    """Name, patient, cancer type, cells and genes of every slide."""
    return [
        {
            "slide": slide.name,
            "patient": slide.patient,
            "cancer_type": slide.cancer_type,
            "cells": slide.n_cells,
            "genes": len(slide.genes),
        }
        for slide in slides
    ]


def software() -> str:
    """Name and version."""
    from importlib.metadata import version

    return f"past-genex {version('past-genex')}"
