"""Does the frozen embedding help to stain, and how do the published baselines do on the same patients?

Every system trains by its recipe through the `lightning` command's own entry, on the same synthetic patients,
and
is tested on the same held-out ones. The simulator knows the DAB of each nucleus, so that every H-score is
held against the truth. Tiles of one patient are alike: with four held-out patients the difference of each is
kept beside the test over tiles. One seed a row on a CPU; on a GPU the mean over three, several systems at a
time, and the results are written under its name. A picture of the same tiles under every system lies beside.
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch

from benchmarks.report import RESULTS, Report, device_slug
from benchmarks.task import Metric, Plot, Task, encoders, no_worse, published
from past_core.atomic import replacing
from past_core.cli import run_lightning
from past_core.holm import holm
from past_core.synthetic.pairs import default_pairs
from past_vihc.data.batch import StainBatch
from past_vihc.evaluation.compare import compare_stains
from past_vihc.evaluation.scores import h_score_errors
from past_vihc.figures.panels import stain_panels

TASK = Task(
    title="Virtual IHC",
    group="virtual IHC",
    data="ten synthetic patients, H&E and ER of the same section; the DAB of every nucleus is known",
    split="trained on six patients, tested on four",
    systems=(
        "FiLM, PAST embedding",
        "FiLM, grid of embeddings",
        "FiLM, shuffled embeddings",
        "FiLM, encoder with random weights",
        "no FiLM (RegGAN losses)",
        "RegGAN",
        "pix2pix",
        "Improved Diffusion",
    ),
    metrics=(
        Metric("PSNR", unit="dB"),
        Metric("SSIM"),
        Metric("SSIM, paper's"),
        Metric("DAB Dice"),
        Metric("DAB r of nuclei", unit="Pearson's r"),
        Metric("|H error|", "lower", unit="points of 0 to 300"),
        Metric("minutes", "lower", unit="of training"),
    ),
    plot=Plot("DAB r of nuclei", mark=0.0),
    wanted=(
        published(
            "PAST, published",
            "lightning fit -c recipes/vihc.yaml --data.encoder published.safetensors",
        ),
        *encoders(
            "uni",
            "conch",
            label="FiLM, {}",
            run="lightning fit -c recipes/vihc.yaml --data.encoder {}",
        ),
    ),
    tracked=(
        no_worse("rows", "FiLM, PAST embedding", "PSNR", drop=3.0),
        no_worse("rows", "FiLM, PAST embedding", "SSIM", drop=0.1),
        no_worse("rows", "FiLM, PAST embedding", "DAB r of nuclei", drop=0.25),
        no_worse("rows", "no FiLM (RegGAN losses)", "PSNR", drop=3.0),
    ),
    note="Columns with `less its` are paired differences, the first system's less this row's.",
    pictures=("stain",),
)

RECIPES = Path(__file__).parents[2] / "recipes"
PRESET = "ihc4bc-er"
FILM, PLAIN, SHUFFLED = "FiLM, PAST embedding", "no FiLM (RegGAN losses)", "FiLM, shuffled embeddings"
SYSTEMS: dict[str, tuple[str, list[str]]] = {
    FILM: ("vihc", []),
    "FiLM, grid of embeddings": ("vihc", ["--data.granularity", "cells"]),
    SHUFFLED: ("vihc", ["--data.shuffle_embeddings", "true"]),
    "FiLM, encoder with random weights": ("vihc", ["--data.weights", "random"]),
    PLAIN: ("vihc", ["--model.embeddings", "none"]),
    "RegGAN": ("vihc-reggan", []),
    "pix2pix": ("vihc-pix2pix", []),
    "Improved Diffusion": ("vihc-diffusion", []),
}
IN_CI = (FILM, PLAIN)
EPOCHS = {"full": None, "ci": 1}
HELD_OUT = ["P25", "P28", "P32", "P33"]
"""The last four of the default's patients; the demo encoder saw none of the ten."""
METRICS = ("psnr", "ssim", "dab_r")
GPU_SEEDS, GPU_JOBS = 3, 6
"""Seeds of a row on a GPU, and how many systems train on it at a time."""
SHOWN = ("Improved Diffusion", "pix2pix", "RegGAN", PLAIN, FILM)
"""Systems in the picture, in the order of the paper's Fig. 3a."""
PER_CASE = 2
"""Tiles of each held-out patient in the picture."""


@dataclass
class Outcome:
    """What one system came to; with several seeds, the mean over them of every tile and case."""

    tiles: pd.DataFrame
    cases: pd.DataFrame
    scores: pd.DataFrame
    seconds: float
    panel: dict[str, Any]
    by_case: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def mean(cls, runs: "list[Outcome]") -> "Outcome":
        """The mean over seeds; the tiles shown are the first's."""
        tiles = _means([run.tiles for run in runs], ["index", "case", "stain"])
        cases = _means([run.cases for run in runs], ["case", "stain"])
        scores = _means([run.scores for run in runs], ["case", "stain"])
        return cls(tiles, cases, scores, float(np.mean([run.seconds for run in runs])), runs[0].panel)


def _means(tables: list[pd.DataFrame], by: list[str]) -> pd.DataFrame:
    return pd.concat(tables).groupby(by, sort=False).mean(numeric_only=True).reset_index()


class _Clock(pl.Callback):
    """Seconds of training, without validation and test."""

    seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts."""
        self._start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops."""
        self.seconds = time.perf_counter() - self._start


def run(profile: str, data: Path | None = None) -> Report:
    """Trains and tests every system.

    Args:
        profile: `full` trains as the recipes say; `ci` one epoch of two systems.
        data: folder or sheet of pairs instead of the synthetic ones; truth is then the real stain's.
    """
    names = list(SYSTEMS) if profile == "full" else list(IN_CI)
    seeds = range(GPU_SEEDS if profile == "full" and torch.cuda.is_available() else 1)
    outcomes = _train_all(names, seeds, profile, data)
    comparison = _compare(outcomes)
    report = f"vihc{device_slug()}"
    if profile == "full":
        _draw(outcomes, RESULTS / f"{report}.png")
    error = "h_error_truth" if data is None else "h_error"
    rows = []
    for name, outcome in outcomes.items():
        means = outcome.cases.mean(numeric_only=True)
        against = comparison[comparison["second"] == name].set_index("metric")
        rows.append(
            [
                name,
                *(f"{means[m]:.{d}f}" for m, d in (("psnr", 2), ("ssim", 3), ("ssim_paper", 3))),
                *(f"{means[m]:.3f}" for m in ("dab_dice", "dab_r")),
                f"{outcome.scores[error].mean():.1f}",
                *(_difference(against, metric) for metric in ("psnr", "dab_r")),
                f"{outcome.seconds / 60:.1f}",
            ]
        )
    film = outcomes[FILM].cases.mean(numeric_only=True)
    # By the test over tiles: four cases cannot reach p < 0.05. The cases' own differences are in the details.
    won = comparison[(comparison["difference"] > 0) & (comparison["p_tiles_holm"] < 0.05)]
    beaten = {
        name: set(won.loc[won["second"] == name, "metric"]) >= {"psnr", "ssim"}
        for name in outcomes
        if name != FILM
    }
    figure = f"FiLM {film['psnr']:.2f} dB, SSIM {film['ssim']:.3f}, DAB r {film['dab_r']:.3f}"
    if profile == "full":
        passed = beaten[SHUFFLED] and beaten[PLAIN]
        figure += f"; better than shuffled: {beaten[SHUFFLED]}, than no FiLM: {beaten[PLAIN]}"
    else:
        # One epoch of two systems shows that they run and learn, not which is better.
        passed = film["psnr"] > 12 and film["dab_r"] > 0.1
    return Report(
        name=report,
        profile=profile,
        columns=[
            "system",
            "PSNR",
            "SSIM",
            "SSIM, paper's",
            "DAB Dice",
            "DAB r of nuclei",
            "|H error|",
            "FiLM's PSNR less its",
            "FiLM's DAB r less its",
            "minutes",
        ],
        rows=rows,
        goal="FiLM with the pretrained embedding is better than shuffled embeddings and than no FiLM in PSNR "
        "and SSIM, the paper's figures (signed-rank over tiles, Holm-corrected p < 0.05)"
        if profile == "full"
        else "both systems train and learn",
        figure=figure,
        passed=bool(passed),
        details={
            "held_out": HELD_OUT if data is None else None,
            "thresholds": PRESET,
            "seeds": list(seeds),
            "cases": {name: o.cases.to_dict("records") for name, o in outcomes.items()},
            "scores": {name: o.scores.to_dict("records") for name, o in outcomes.items()},
            "comparison": comparison.to_dict("records"),
            "differences_by_case": outcomes[FILM].by_case,
        },
    )


def _train_all(names: list[str], seeds: range, profile: str, data: Path | None) -> dict[str, Outcome]:
    """Every system with every seed: one after the other on a CPU, several at a time on a GPU."""
    jobs = [(*SYSTEMS[name], seed, profile, data) for name in names for seed in seeds]
    if profile == "full" and torch.cuda.is_available():
        if data is None:
            default_pairs(stains=["er"])  # so that the processes find them made
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(GPU_JOBS, mp_context=context, max_tasks_per_child=1) as pool:
            runs = list(pool.map(_train, *zip(*jobs, strict=True)))
    else:
        runs = [_train(*job) for job in jobs]
    found = iter(runs)
    return {name: Outcome.mean([next(found) for _ in seeds]) for name in names}


def _train(recipe: str, options: list[str], seed: int, profile: str, data: Path | None) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="past-vihc-") as folder:
        arguments = ["fit", "-c", str(RECIPES / f"{recipe}.yaml"), *options]
        arguments += ["--trainer.default_root_dir", folder, "--trainer.logger.init_args.save_dir", folder]
        arguments += ["--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"]
        arguments += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        arguments += ["--trainer.callbacks", "benchmarks.tasks.vihc._Clock"]
        arguments += ["--trainer.enable_checkpointing", "false", "--seed_everything", str(seed)]
        arguments += ["--data.seed", str(seed)]
        if EPOCHS[profile]:
            arguments += ["--trainer.max_epochs", str(EPOCHS[profile])]
        if data is None:
            arguments += ["--data.test_cases", str(HELD_OUT), "--data.val_cases", "[]"]
        else:
            arguments += ["--data.root", str(data)]
        cli = run_lightning(arguments)
        clock = next(c for c in cli.trainer.callbacks if isinstance(c, _Clock))
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        evaluator = cli.model.evaluator
        truth = _truth(cli.datamodule) if data is None else None
        scores = h_score_errors(evaluator.nuclei(), PRESET, truth=truth)
        panel = _panel(cli.model, cli.datamodule)
        return Outcome(evaluator.table(), evaluator.cases(), scores, clock.seconds, panel)


def _panel(task: Any, data: Any) -> dict[str, Any]:
    """The brownest tiles of each held-out patient: `he`, `virtual`, `real` `(N, 3, S, S)` uint8, `rows`."""
    batches = list(data.test_dataloader())
    brown = [
        (case, -float(blue))
        for b in batches
        for case, blue in zip(b.case, b.ihc[:, 2].float().mean((1, 2)), strict=True)
    ]
    table = pd.DataFrame(brown, columns=["case", "brown"])
    rows = table.sort_values("brown", ascending=False).groupby("case", sort=True).head(PER_CASE)
    rows = sorted(rows.index, key=lambda row: (table["case"][row], row))
    found: dict[str, Any] = {"he": [], "virtual": [], "real": []}
    starts = np.cumsum([0, *(len(b.case) for b in batches)])
    for row in rows:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        own = slice(row - starts[number], row - starts[number] + 1)
        tile = StainBatch(*(values[own] for values in batches[number]))
        made = task.translate(task.transfer_batch_to_device(tile, task.device, 0)).cpu()
        for key, values in (("he", tile.he), ("virtual", made), ("real", tile.ihc)):
            found[key].append(values.numpy())
    tiles = {key: np.concatenate(values) for key, values in found.items()}
    return tiles | {"rows": [table["case"][row] for row in rows]}


def _draw(outcomes: dict[str, Outcome], path: Path) -> None:
    """H&E, every system and the real stain, as in the paper's Fig. 3a."""
    first = outcomes[FILM].panel
    columns = {"H&E": first["he"]}
    columns |= {name.split(" (")[0].split(",")[0]: outcomes[name].panel["virtual"] for name in SHOWN}
    figure = stain_panels(
        columns | {"real": first["real"]},
        real="real",
        rows=first["rows"],
        heading="Held-out patients, ER, synthetic",
        bar_um=20.0,
        mpp=0.5,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _truth(data: Any) -> pd.DataFrame:
    """The DAB that the simulator rendered in every nucleus of the held-out slides."""
    tables = [
        pd.read_csv(Path(pair.nuclei).parent / f"truth_{pair.stain}.csv").assign(
            case=pair.case, stain=pair.stain
        )
        for pair in data.test_pairs
    ]
    return pd.concat(tables, ignore_index=True)


def _compare(outcomes: dict[str, Outcome]) -> pd.DataFrame:
    """FiLM against every other system, each on the tiles that both stained: diffusion samples only some."""
    tables, by_case = [], []
    for name, outcome in outcomes.items():
        if name == FILM:
            continue
        both = set(outcome.tiles["index"]) & set(outcomes[FILM].tiles["index"])
        pair = {key: outcomes[key].tiles for key in (FILM, name)}
        found = compare_stains(
            {key: tiles[tiles["index"].isin(both)] for key, tiles in pair.items()}, metrics=METRICS
        )
        tables.append(found.table)
        by_case += found.cases.to_dict("records")
    outcomes[FILM].by_case = by_case
    table = pd.concat(tables, ignore_index=True)
    for test in ("p_tiles", "p_cases"):  # over all pairs
        table[f"{test}_holm"] = holm(table[test].to_numpy())
    return table


def _difference(against: pd.DataFrame, metric: str) -> str:
    if metric not in against.index:
        return ""
    row = against.loc[metric]
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
