"""What scoring a slide gives: its nuclei, scores, and everything that they depend on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from past_vihc.hscore.pixel_score import PixelScore
from past_vihc.hscore.presets import CLASSES
from past_vihc.hscore.score import HScore
from past_vihc.hscore.uncertainty import BLOCK_UM, Interval

NOTICE = "Research use only; not for diagnosis."


@dataclass(frozen=True, kw_only=True)
class SlideScore:
    """The score of one slide.

    Attributes:
        nuclei: one row a nucleus in reading order: label, x, y (level-0 pixels of the IHC), x_um, y_um,
            area_um2, dab_od, haematoxylin_od, class, region.
        outlines: open rings `(k, 2)` x, y in level-0 pixels of the IHC, a row each.
        score: of the whole slide.
        interval: of its H-score; None where it cannot be had.
        sensitivity: scores under other thresholds and white points.
        regions: one row a region, its score; empty where none were given.
        pixels: the check without segmentation.
        flags: what a reader of the score must know; empty where nothing is amiss.
        record: marker, thresholds, stains, white point, segmenter, software: what the score depends on.
    """

    nuclei: pd.DataFrame
    outlines: list[np.ndarray]
    score: HScore
    interval: Interval | None
    sensitivity: pd.DataFrame
    regions: pd.DataFrame
    pixels: PixelScore
    flags: dict[str, str]
    record: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Everything but the nuclei, as plain numbers and texts."""
        ci = self.interval
        pixel = self.pixels
        return {
            **self.record,
            **score_json(self.score),
            "ci95": None if ci is None else [ci.low, ci.high],
            "percent_positive_ci95": None if ci is None else [ci.positive_low, ci.positive_high],
            "ci_method": f"percentile bootstrap of squares of {BLOCK_UM:g} µm",
            "ci_blocks": None if ci is None else ci.blocks,
            "pixel_h_score": pixel.h,
            "pixel_percent": None if pixel.percent is None else named(pixel.percent),
            "pixel_definition": "shares of stained pixels (haematoxylin at least 0.1 or DAB at least weak)",
            "sensitivity": self.sensitivity.astype(object)
            .where(self.sensitivity.notna(), None)
            .to_dict("records"),
            "regions": self.regions.astype(object).where(self.regions.notna(), None).to_dict("records"),
            "flags": self.flags,
            "notice": NOTICE,
        }


def named(percent: np.ndarray) -> dict[str, float]:
    """Percentages of the classes by name."""
    return {name: float(value) for name, value in zip(CLASSES, percent, strict=True)}


def score_json(score: HScore) -> dict[str, Any]:
    """A score as plain numbers."""
    return {
        "h_score": score.h,
        "why_undefined": score.why_undefined,
        "percent": None if score.percent is None else named(score.percent),
        "percent_positive": score.percent_positive,
        "allred": None if score.allred is None else score.allred._asdict(),
        "nuclei": score.n,
        "denominator": score.denominator,
        "clipped": score.clipped,
    }
