"""Do neighbouring cells in one batch, as hard negatives, help or hurt learning?

The recipe is trained at equal steps with spatial groups of several sizes: of the other cells in a batch of B,
(g - 1) / (B - 1) are near neighbours. Retrieval curves are over held-out patients: among all cells of the
slide, and among the cell's 64 nearest. One seed per row: differences below about 1.5-fold are noise.
"""

import math
from pathlib import Path
from typing import Any

from benchmarks.report import Report
from benchmarks.task import Metric, Task, at_least
from benchmarks.tasks.pretrain import train_recipe
from past_core.data.datamodule import DEFAULT_GROUP_SIZE

TASK = Task(
    title="Neighbouring cells as hard negatives",
    group="pretraining",
    data="embedded default: five synthetic patients of 300 genes",
    split="trained on three patients; the galleries are the slides of two others",
    system="group size",
    systems=("1", "4", "16", "64"),
    metrics=(
        Metric("step 146", unit="recall over chance"),
        Metric("step 292", unit="recall over chance"),
        Metric("step 438", unit="recall over chance"),
        Metric("step 584", unit="recall over chance"),
    ),
    tracked=(at_least("details", "curves", "1", -1, "slide", share=0.5),),
)

GROUPS = {"full": (1, 4, 16, 64), "ci": (1, 16)}
EPOCHS = {"full": (8, 2), "ci": (2, 1)}
"""Epochs of training, and between two points of the curve."""
MARGIN = 1.5
"""How much better another size must be, overall, to speak against the default."""


def run(profile: str, data: Path | None = None) -> Report:
    """Trains once for each group size.

    Args:
        profile: `full` as long as the recipe says; `ci` two sizes for two epochs.
        data: folder of slide stores instead of the embedded default.
    """
    epochs, every = EPOCHS[profile]
    curves = {
        group: _curve(
            [
                *("--data.group_size", str(group), "--trainer.max_epochs", str(epochs)),
                *("--trainer.check_val_every_n_epoch", str(every)),
            ],
            data,
        )
        for group in GROUPS[profile]
    }
    last = {group: curve[-1] for group, curve in curves.items()}
    best = max(last, key=lambda group: last[group]["slide"])
    chosen = last[DEFAULT_GROUP_SIZE]["slide"]
    passed = math.isfinite(chosen) and (profile == "ci" or last[best]["slide"] <= MARGIN * chosen)
    steps = [f"step {point['step']:.0f}" for point in curves[DEFAULT_GROUP_SIZE]]
    return Report(
        name="locality",
        profile=profile,
        columns=["group size", "near negatives", "recall@", *steps],
        rows=[row for group, curve in curves.items() for row in _rows(group, curve)],
        goal=(
            f"the default group size {DEFAULT_GROUP_SIZE} comes within {MARGIN:g} x of the best in the slide"
            + ("" if profile == "full" else " (at this length only that all sizes train)")
        ),
        figure=(
            f"best group size {best} ({last[best]['slide']:.1f} x chance in the slide, "
            f"{last[best]['neighbourhood']:.1f} x in the neighbourhood); default {DEFAULT_GROUP_SIZE} "
            f"({chosen:.1f} x, {last[DEFAULT_GROUP_SIZE]['neighbourhood']:.1f} x)"
        ),
        passed=bool(passed),
        details={"curves": curves, "batch_size": 128},
    )


def _curve(options: list[str], data: Path | None) -> list[dict[str, float]]:
    _, record = train_recipe(options, data)
    return [_point(figures) for figures in record.validations]


def _point(figures: dict[str, Any]) -> dict[str, float]:
    """Both directions' mean, over chance: recall@10 in the slide, recall@1 among the 64 nearest."""
    directions = ("image_to_cell", "cell_to_image")
    slide = sum(figures[f"val/enrichment@10/{d}"] for d in directions) / 2
    near = sum(figures[f"val/neighbourhood_recall@1/{d}"] for d in directions) / 2
    return {
        "step": figures["step"],
        "slide": slide,
        "neighbourhood": near / figures["val/neighbourhood_chance@1"],
        "loss_over_ln_batch": figures["train/loss_over_ln_batch"],
    }


def _rows(group: int, curve: list[dict[str, float]]) -> list[list[str]]:
    share = f"{(group - 1) / 127:.0%}"
    return [
        [str(group), share, "10, slide", *(f"x {point['slide']:.1f}" for point in curve)],
        ["", "", "1, neighbours", *(f"x {point['neighbourhood']:.1f}" for point in curve)],
    ]
