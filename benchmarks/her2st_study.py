"""Leave-one-patient-out on her2st: does contrastive pretraining on the training patients help the probe?

The unit is a spot of 100 µm. Genes: those with a count in at least 10 % of the spots of every section, of
these the 250 with the highest mean, as ST-Net has it; log1p of counts normalised to the section's median.
For every fold PAST is pretrained anew on its training patients alone, with the model of
`recipes/pretrain.yaml` and a field of 112 µm; the other arm is the same encoder with fresh weights.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.her2st import her2st_slides
from benchmarks.report import Report
from past_core.cli import run_lightning
from past_core.encoders import load_encoders, load_image_encoder
from past_core.synthetic.default import cache_folder
from past_genex.data.slides import ExpressionSlide
from past_genex.data.splits import Fold, Split, leave_patients_out
from past_genex.data.targets import Target
from past_genex.evaluation.report import digits, report
from past_genex.evaluation.run import evaluate
from past_genex.metrics.pairs import PairMoments
from past_genex.systems.base import Prediction, Surroundings, System
from past_genex.systems.features import EncoderFeatures
from past_genex.systems.registry import build_system
from past_genex.systems.retrieval import Retrieval
from past_genex.systems.ridge import RidgeProbe
from past_genex.systems.stnet import STNet
from past_genex.systems.untrained import untrained_encoder

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain.yaml"
FIELD = {"image_size": 64, "mpp": 1.75}
"""112 µm; section A1's image has 3.2 µm/px, so that finer pixels would only tell the sections apart."""
EPOCHS = {"full": 40, "ci": 2}
STNET = {"full": {"epochs": 12, "image_size": 64}, "ci": {"epochs": 1, "image_size": 32}}
PRETRAINED, UNTRAINED = "PAST, pretrained contrastively", "the same encoder, untrained"
SHUFFLED = "shuffled:efficientnet-lite0"
GENES = {"full": 250, "ci": 50}


class SpotSlide(ExpressionSlide):
    """A section with some of its genes; totals, and so the normalisation, are over all of them."""

    def __init__(self, path: Path, genes: pd.Index | None = None) -> None:
        super().__init__(path)
        self._chosen = genes

    @property
    def genes(self) -> pd.Index:
        """The chosen genes that it measures."""
        every = self.store.genes.index
        return every if self._chosen is None else self._chosen[self._chosen.isin(every)]

    @cached_property
    def counts(self) -> sparse.csr_matrix:
        """`(N, G)` counts of the chosen genes."""
        return self.store.counts[self.rows][:, self.store.genes.index.get_indexer(self.genes)]

    @cached_property
    def totals(self) -> np.ndarray:
        """`(N,)` counts over all genes of the section."""
        return np.asarray(self.store.counts[self.rows].sum(axis=1)).ravel().astype(np.float64)


def chosen_genes(slides: list[ExpressionSlide], k: int) -> pd.Index:
    """The k genes of highest mean log1p count among those in 10 % of the spots of every section."""
    means = []
    for slide in slides:
        frequent = np.asarray((slide.counts > 0).mean(axis=0)).ravel() >= 0.1
        values = np.asarray(slide.counts.log1p().mean(axis=0)).ravel()
        means.append(pd.Series(values[frequent], index=slide.genes[frequent]))
    common = pd.concat(means, axis=1, join="inner").mean(axis=1)
    return pd.Index(common.sort_values(ascending=False).index[:k])


class PerFold:
    """A system made anew for every fold, such as one whose encoder is pretrained on the training patients."""

    def __init__(self, name: str, make: Any) -> None:
        self.name, self._make = name, make
        self._made: dict[str, System] = {}

    def of(self, split: Split, fold: Fold) -> System:
        """The fold's own system."""
        if fold.name not in self._made:
            self._made[fold.name] = self._make(split, fold)
        return self._made[fold.name]

    def predict(self, split: Split, fold: Fold, genes: pd.Index) -> Iterator[Prediction]:
        """See `System`."""
        return self.of(split, fold).predict(split, fold, genes)


class LinearPerFold(PerFold):
    """The same for linear systems."""

    def score(self, split: Split, fold: Fold, genes: pd.Index) -> Mapping[tuple[int, int], PairMoments]:
        """See `LinearSystem`."""
        return self.of(split, fold).score(split, fold, genes)


def pretrained(split: Split, fold: Fold, epochs: int, seed: int) -> Path:
    """A checkpoint of PAST pretrained on a fold's training slides alone; kept in the cache.

    Nothing of the test patients is seen: the vocabulary, the gene means and the weights come from the
    training slides, and there is no validation.
    """
    stores = [str(split.slides[number].store.path) for number in sorted(fold.train)]
    recipe = hashlib.sha256(RECIPE.read_bytes() + repr((stores, epochs, seed, FIELD)).encode()).hexdigest()
    path = cache_folder() / "genex" / "her2st" / f"without-{fold.name.replace('/', '-')}-{recipe[:16]}.ckpt"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["fit", "-c", str(RECIPE), "--trainer.default_root_dir", folder]
        arguments += ["--seed_everything", str(seed), "--trainer.max_epochs", str(epochs)]
        arguments += [
            "--trainer.logger",
            "false",
            "--trainer.callbacks",
            "[]",
            "--trainer.accelerator",
            "cpu",
        ]
        arguments += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        arguments += ["--trainer.enable_checkpointing", "false", "--trainer.limit_val_batches", "0"]
        arguments += ["--trainer.num_sanity_val_steps", "0"]
        arguments += ["--data.slides", str(stores), "--data.val_fraction", "0"]
        arguments += ["--data.mpp", str(FIELD["mpp"]), "--data.patch_size", str(FIELD["image_size"])]
        arguments += ["--model.image.mpp", str(FIELD["mpp"])]
        arguments += ["--model.image.image_size", str(FIELD["image_size"])]
        trainer = run_lightning(arguments).trainer
        trainer.save_checkpoint(path)
    return path


def systems(profile: str, surroundings: Surroundings) -> list[Any]:
    """Every system of the table, the published baselines first."""
    epochs = EPOCHS[profile]

    def checkpoint(split: Split, fold: Fold) -> Path:
        return pretrained(split, fold, epochs, surroundings.seed)

    def probe(split: Split, fold: Fold) -> System:
        encoder = load_image_encoder(checkpoint(split, fold))
        return RidgeProbe("PAST", EncoderFeatures(encoder, surroundings), surroundings)

    def untrained(split: Split, fold: Fold) -> System:
        encoder = untrained_encoder(str(checkpoint(split, fold)), seed=surroundings.seed)
        return RidgeProbe("untrained", EncoderFeatures(encoder, surroundings), surroundings)

    def retrieve(split: Split, fold: Fold) -> System:
        return Retrieval(*load_encoders(checkpoint(split, fold), "joint"), surroundings)

    return [
        LinearPerFold(PRETRAINED, probe),
        LinearPerFold(UNTRAINED, untrained),
        PerFold("PAST, retrieval", retrieve),
        ("ImageNet EfficientNet-Lite0", lambda: build_system("ridge:efficientnet-lite0", surroundings)),
        ("ST-Net-style DenseNet, scratch", lambda: STNet(surroundings, pretrained=False, **STNET[profile])),
        ("mean", lambda: build_system("mean", surroundings)),
        ("shuffled", lambda: build_system(SHUFFLED, surroundings)),
    ]


def run_her2st(profile: str, data: Path | None = None) -> Report:
    """Trains and scores everything, and prints what comes out, whatever it says.

    Args:
        profile: `full`, or `ci` with fewer genes and epochs.
        data: the data set's folder, see `find_her2st`.
    """
    start = time.perf_counter()
    paths = her2st_slides(data)
    genes = chosen_genes([ExpressionSlide(path) for path in paths], GENES[profile])
    slides = [SpotSlide(path, genes) for path in paths]
    target = Target("median")
    surroundings = Surroundings(target)
    split = leave_patients_out(slides)
    evaluation = evaluate(split, systems(profile, surroundings), target)
    content = report(evaluation, subsets={"all": genes})
    rows = content["subsets"]["all"]["systems"]
    patients = list(dict.fromkeys(slide.patient for slide in slides))
    table = [
        [
            row["system"],
            digits(row["r"]),
            f"{digits(row['low'])} to {digits(row['high'])}",
            digits(row["r_per_slide"]),
            *(digits(row["by_patient"].get(patient)) for patient in patients),
        ]
        for row in rows
    ] + [[name, "left out", why, "", *("" for _ in patients)] for name, why in content["skipped"].items()]
    by_name = {row["system"]: row for row in rows}
    past, blank, shuffled = (
        by_name[name]
        for name in (
            "PAST, pretrained contrastively",
            "the same encoder, untrained",
            "shuffled:efficientnet-lite0",
        )
    )
    arms = next(
        d
        for d in content["subsets"]["all"]["differences"]
        if (d["first"], d["second"]) == (past["system"], blank["system"])
    )
    minutes = (time.perf_counter() - start) / 60
    sound = abs(shuffled["r_per_slide"]) < 0.05
    return Report(
        name="genex-her2st",
        profile=profile,
        columns=["system", "r", "95 % CI", "per slide", *patients],
        rows=table,
        goal="every arm is shown whatever it says; shuffled embeddings within 0.05 of r = 0 within sections",
        figure=(
            f"r {past['r']:.3f} pretrained, {blank['r']:.3f} untrained, difference {arms['difference']:.3f} "
            f"({arms['low']:.3f} to {arms['high']:.3f}); shuffled {shuffled['r_per_slide']:.3f}; "
            f"{minutes:.1f} min"
        ),
        passed=bool(sound),
        details={"minutes": minutes, "epochs": EPOCHS[profile], "genes": list(genes), "report": content},
    )
