"""Does contrastive pretraining learn what the tissue says, and nothing where it says nothing?

Every row runs `recipes/pretrain.yaml` through the `lightning` command's own entry, with one thing changed.
Figures are recall@10 over chance (10 / gallery) on patients never trained on, in the gallery of all cells
of one slide. Single seed per row: differences below about 1.5-fold between rows are noise.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task, at_least, near, published
from past_core.cli import run_lightning

TASK = Task(
    title="Retrieval between image and transcriptome",
    group="pretraining",
    data="embedded default: five synthetic patients of 300 genes, about 3,200 cells in a gallery",
    split="trained on three patients; the galleries are the slides of two others",
    system="variant",
    systems=(
        "similarity targets, centred heads",
        "similarity targets, heads as they come",
        "identity targets",
        "annealed targets",
        "similarity targets, centred heads, no morphology",
    ),
    metrics=(
        Metric("image>cell", unit="recall@10 over chance"),
        Metric("cell>image", unit="recall@10 over chance"),
        Metric("neighbourhood", unit="recall@1 among the 64 nearest cells, over chance"),
        Metric("median rank", "lower"),
        Metric("min", "lower", unit="minutes of training"),
    ),
    plot=Plot("image>cell", mark=1.0, log=True),
    wanted=(published("published", "past embed SLIDE.zarr -e published.safetensors -o slide.h5ad"),),
    tracked=(
        at_least("details", "outcomes", "similarity targets, centred heads", "pooled", share=0.5),
        near("details", "outcomes", "similarity targets, centred heads, no morphology", "pooled", within=0.6),
        near("details", "outcomes", "similarity targets, centred heads", "loss_over_ln_batch", within=0.1),
    ),
    note="In the last row the tissue looks the same whatever its cells express: nothing can be learned.",
    pictures=("retrieval", "umap"),
)

RECIPE = Path(__file__).parents[2] / "recipes" / "pretrain.yaml"

VARIANTS: dict[str, list[str]] = {
    "similarity targets, centred heads": [],
    "similarity targets, heads as they come": ["--model.center_heads", "false"],
    "identity targets": ["--model.targets", "identity"],
    "annealed targets": ["--model.targets", "annealed"],
    "similarity targets, centred heads, no morphology": ["--data.morphology", "0"],
}
RECIPE_VARIANT, CONTROL = next(iter(VARIANTS)), list(VARIANTS)[-1]
GOALS = {"full": (15.0, 5.0), "ci": (2.0, 3.0)}
"""Per profile: recall@10 over chance of the recipe in its worse direction, and minutes of training."""
EPOCHS = {"full": None, "ci": 2}
CONTROL_BOUND = 1.5
"""The control's pooled figure; two slides and two directions give 40 expected hits, so 1.5 is p = 0.002."""


class Record(pl.Callback):
    """Seconds from the start of training to its end, validation included, and every validation's figures."""

    seconds = float("nan")

    def __init__(self) -> None:
        self.validations: list[dict[str, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts."""
        self._start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the figures and the step they belong to."""
        if not trainer.sanity_checking:
            figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
            self.validations.append({"step": float(trainer.global_step), **figures})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops."""
        self.seconds = time.perf_counter() - self._start


def run(profile: str, data: Path | None = None) -> Report:
    """Trains every variant in turn.

    Args:
        profile: `full` trains as the recipe says; `ci` for two epochs, the recipe and the control alone.
        data: folder of slide stores instead of the embedded default; the control is then left out.
    """
    outcomes = {
        name: _train(options, profile, data)
        for name, options in VARIANTS.items()
        if (profile == "full" or name in (RECIPE_VARIANT, CONTROL)) and not (data and name == CONTROL)
    }
    recipe = outcomes[RECIPE_VARIANT]
    enrichment, minutes = GOALS[profile]
    worse = min(recipe["image_to_cell"], recipe["cell_to_image"])
    minutes_taken = recipe["minutes"]
    pooled = outcomes[CONTROL]["pooled"] if CONTROL in outcomes else float("nan")
    passed = worse >= enrichment and not pooled >= CONTROL_BOUND
    if profile == "full":
        passed = passed and minutes_taken < minutes
    columns = [
        "variant",
        "image>cell",
        "cell>image",
        "neighbourhood",
        "median rank",
        "loss/lnB",
        "cosines",
        "min",
    ]
    return Report(
        name="pretrain",
        profile=profile,
        columns=columns,
        rows=[_row(name, outcome) for name, outcome in outcomes.items()],
        goal=(
            f"recall@10 of the recipe at least {enrichment:g} x chance in both directions"
            + (f" in under {minutes:g} minutes of training" if profile == "full" else "")
            + f"; without morphology all figures pooled below {CONTROL_BOUND:g} x"
        ),
        figure=f"recall@10 {worse:.1f} x chance, {pooled:.2f} x without morphology, {minutes_taken:.1f} min",
        passed=bool(passed),
        details={"outcomes": outcomes},
    )


def train_recipe(options: list[str], data: Path | None) -> tuple[pl.Trainer, Record]:
    """Trains `recipes/pretrain.yaml` through the command's own entry, without its pictures and files.

    Args:
        options: what is changed.
        data: folder of slide stores instead of the embedded default.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["fit", "-c", str(RECIPE), "--trainer.default_root_dir", folder, *options]
        arguments += ["--trainer.logger.init_args.save_dir", folder, "--trainer.enable_progress_bar", "false"]
        arguments += ["--trainer.callbacks", f"{__name__}.Record"]
        arguments += ["--trainer.enable_checkpointing", "false", "--trainer.enable_model_summary", "false"]
        if data is not None:
            arguments += ["--data.slides", str(sorted(map(str, data.glob("*.zarr"))))]
        trainer = run_lightning(arguments).trainer
    return trainer, next(c for c in trainer.callbacks if isinstance(c, Record))


def _train(options: list[str], profile: str, data: Path | None) -> dict[str, Any]:
    if EPOCHS[profile]:
        options = [*options, "--trainer.max_epochs", str(EPOCHS[profile])]
        options += ["--trainer.check_val_every_n_epoch", str(EPOCHS[profile])]
    trainer, record = train_recipe(options, data)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    per_slide = [v for k, v in metrics.items() if k.startswith("val_") and "/enrichment@10/" in k]
    neighbourhood = [metrics[f"val/neighbourhood_recall@1/{d}"] for d in ("image_to_cell", "cell_to_image")]
    return {
        "image_to_cell": metrics["val/enrichment@10/image_to_cell"],
        "cell_to_image": metrics["val/enrichment@10/cell_to_image"],
        "pooled": sum(per_slide) / len(per_slide),
        "per_slide": {k: v for k, v in metrics.items() if k.startswith("val_") and "/enrichment@10/" in k},
        "neighbourhood": sum(neighbourhood) / 2 / metrics["val/neighbourhood_chance@1"],
        "median_rank": (metrics["val/median_rank/image_to_cell"] + metrics["val/median_rank/cell_to_image"])
        / 2,
        "gallery": metrics["val/gallery"],
        "loss_over_ln_batch": metrics["train/loss_over_ln_batch"],
        "excess_loss": metrics["train/excess_loss"],
        "image_cosine": metrics["train/image_cosine"],
        "cell_cosine": metrics["train/cell_cosine"],
        "temperature": metrics["train/temperature"],
        "minutes": record.seconds / 60,
        "epochs": trainer.current_epoch,
    }


def _row(name: str, outcome: dict[str, Any]) -> list[str]:
    rank = f"{outcome['median_rank']:.0f} of {outcome['gallery']:.0f}"
    cosines = f"{outcome['image_cosine']:.2f} {outcome['cell_cosine']:.2f}"
    loss = "nan" if math.isnan(outcome["loss_over_ln_batch"]) else f"{outcome['loss_over_ln_batch']:.2f}"
    return [
        name,
        f"x {outcome['image_to_cell']:.1f}",
        f"x {outcome['cell_to_image']:.1f}",
        f"x {outcome['neighbourhood']:.1f}",
        rank,
        loss,
        cosines,
        f"{outcome['minutes']:.1f}",
    ]
