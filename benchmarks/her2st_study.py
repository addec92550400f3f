"""Leave-one-patient-out on her2st: does contrastive pretraining on the training patients help the probe?

The unit is a spot of 100 µm with at least 100 counts. No choice below was made by comparing scores, but
tables of the profile `ci`, which score these same patients, had been seen before the choices were fixed.
Numbers of epochs are what two CPU cores can do in about ten minutes:

- Genes: with a count in at least 10 % of the spots of every section; of these the 250 of highest mean, as
  ST-Net has it. The choice uses all sections, as published studies do; no model sees a test patient's count.
- Target: log1p of counts normalised to the section's median total, over all genes of the section.
- Field: ST-Net's 112 µm around each spot, for every system. PAST and DenseNet see it in 64 pixels of 1.75 µm:
  section A1's image has 3.19 µm per pixel, so that finer pixels would mostly tell the sections apart.
  ImageNet's EfficientNet-Lite0 gets its native 224 pixels of 0.5 µm (A1 enlarged 6.4 times); in `ci` 64.
- PAST: the model and hyperparameters of `recipes/pretrain.yaml`, pretrained anew for every fold on its
  training patients alone (626 to 894 spots) for 30 epochs, the last weights, without validation. One option
  differs: targets go from one-hot to soft (`annealed`), as the recipe's collapse in one of the folds, which
  training itself reports. Vocabulary and gene means come from the training slides too. The other arm is this
  encoder with fresh weights.
- ST-Net-style DenseNet-121 from scratch: 3 epochs in batches of 16, about as many steps as PAST.
- The strength of every ridge is chosen for each gene on training patients held out in turn.

Three patients and one seed: the intervals draw regions within patients, and say nothing of other patients.
Statistics live in a temporary folder (3 GB); slide stores, embeddings and pretrained checkpoints are kept in
the cache, so that a second run is faster. Where the cores are shared, OMP_NUM_THREADS=1 is faster: OpenMP's
threads wait for each other.
"""

import dataclasses
import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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
from past_core.frozen import FrozenEncoder
from past_core.ingest.store import SlideStore
from past_core.models.image_encoder import ImageEncoder
from past_core.pretrain import CollapseError
from past_core.synthetic.default import cache_folder
from past_genex.data.slides import ExpressionSlide
from past_genex.data.splits import Fold, Split, leave_patients_out
from past_genex.data.targets import Target
from past_genex.evaluation.report import digits, report
from past_genex.evaluation.run import evaluate
from past_genex.metrics.pairs import PairMoments
from past_genex.systems.base import Prediction, Surroundings, System, SystemUnavailableError
from past_genex.systems.features import EncoderFeatures, ShuffledFeatures
from past_genex.systems.mean import MeanOfTraining
from past_genex.systems.retrieval import Retrieval
from past_genex.systems.ridge import RidgeProbe
from past_genex.systems.stnet import STNet
from past_genex.systems.untrained import untrained_encoder

logger = logging.getLogger(__name__)

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain.yaml"
FIELD = {"image_size": 64, "mpp": 1.75}
"""112 µm; section A1's image has 3.2 µm/px, so that finer pixels would only tell the sections apart."""
TARGETS = "annealed"
"""Of the contrastive loss. With the recipe's, training on A1, C2, C3 and C4 collapses at step 40."""
EPOCHS = {"full": 30, "ci": 1}
STNET = {
    "full": {"epochs": 3, "image_size": 64, "batch_size": 16},
    "ci": {"epochs": 1, "image_size": 32, "max_cells": 200},
}
IMAGENET = "efficientnet-lite0"
IMAGENET_SIZE = {"full": 224, "ci": 64}
PRETRAINED, UNTRAINED = "PAST, pretrained contrastively", "the same encoder, untrained"
SHUFFLED = "shuffled embeddings"
GENES = {"full": 250, "ci": 50}


class SpotSlide(ExpressionSlide):
    """A section with some of its genes; totals, and so the normalisation, are over all of them."""

    def __init__(self, store: SlideStore | Path, genes: pd.Index | None = None) -> None:
        super().__init__(store)
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


class Stopwatch:
    """Seconds of every system, from the progress of `evaluate`."""

    def __init__(self) -> None:
        self.by_system: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def __call__(self, system: str, done: int, folds: int) -> None:
        """See `evaluate`."""
        now = time.perf_counter()
        self.by_system[system] = round(now - self._began.setdefault(system, now), 1)
        logger.info("%s: %d of %d folds, %.0f s", system, done, folds, self.by_system[system])


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


def checkpoint_path(split: Split, fold: Fold, epochs: int, seed: int) -> Path:
    """Where the checkpoint of a fold is kept, by everything that it depends on."""
    stores = [str(path) for path in training_stores(split, fold)]
    recipe = hashlib.sha256(
        RECIPE.read_bytes() + repr((stores, epochs, seed, FIELD, TARGETS)).encode()
    ).hexdigest()
    name = f"without-{fold.name.replace('/', '-')}-{recipe[:16]}.ckpt"
    return cache_folder() / "genex" / "her2st" / name


def training_stores(split: Split, fold: Fold) -> list[Path]:
    """The slide stores of a fold's training side."""
    return [split.slides[number].store.path for number in sorted(fold.train)]


def pretrained(split: Split, fold: Fold, epochs: int, seed: int) -> Path:
    """A checkpoint of PAST pretrained on a fold's training slides alone; kept in the cache.

    Nothing of the test patients is seen: the vocabulary, the gene means and the weights come from the
    training slides, and there is no validation.

    Raises:
        SystemUnavailableError: training collapsed.
    """
    path = checkpoint_path(split, fold, epochs, seed)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "seed_everything": seed,
            "trainer.default_root_dir": folder,
            "trainer.max_epochs": epochs,
            "trainer.accelerator": "cpu",
            "trainer.logger": "false",
            "trainer.callbacks": "[]",
            "trainer.enable_progress_bar": "false",
            "trainer.enable_model_summary": "false",
            "trainer.enable_checkpointing": "false",
            "trainer.limit_val_batches": 0,
            "trainer.num_sanity_val_steps": 0,
            "data.slides": [str(store) for store in training_stores(split, fold)],
            "data.val_fraction": 0,
            "data.mpp": FIELD["mpp"],
            "data.patch_size": FIELD["image_size"],
            "model.targets": TARGETS,
            "model.image.mpp": FIELD["mpp"],
            "model.image.image_size": FIELD["image_size"],
        }
        flags = [item for key, value in options.items() for item in (f"--{key}", str(value))]
        arguments = ["fit", "-c", str(RECIPE), *flags]
        try:
            trainer = run_lightning(arguments).trainer
        except CollapseError as error:
            raise SystemUnavailableError(f"pretraining without {fold.name}: {error}") from error
        trainer.save_checkpoint(path)
    return path


def imagenet_encoder(size: int) -> FrozenEncoder:
    """EfficientNet-Lite0 with ImageNet's weights on a field of 112 µm, `size` pixels wide.

    Raises:
        EncoderNotFoundError: its weights are not here.
    """
    native = load_image_encoder(IMAGENET)
    if size == native.patch_size:
        return native
    config = dataclasses.replace(native._encoder.config, image_size=size, mpp=native.field_um / size)
    return FrozenEncoder(f"{IMAGENET}, {size} px", ImageEncoder(config, native._encoder.model))


def systems(profile: str, surroundings: Surroundings, kept: dict[str, bool]) -> list[Any]:
    """Every system of the table, the published baselines first.

    Args:
        profile: `full` or `ci`.
        surroundings: what they share.
        kept: filled with whether a fold's checkpoint was in the cache when it was first asked for.
    """
    epochs = EPOCHS[profile]
    lasting = dataclasses.replace(surroundings, cache=None)

    def checkpoint(split: Split, fold: Fold) -> Path:
        kept.setdefault(fold.name, checkpoint_path(split, fold, epochs, surroundings.seed).is_file())
        return pretrained(split, fold, epochs, surroundings.seed)

    def probe(split: Split, fold: Fold) -> System:
        encoder = load_image_encoder(checkpoint(split, fold))
        return RidgeProbe("PAST", EncoderFeatures(encoder, lasting), surroundings)

    def untrained(split: Split, fold: Fold) -> System:
        encoder = untrained_encoder(str(checkpoint(split, fold)), seed=surroundings.seed)
        return RidgeProbe("untrained", EncoderFeatures(encoder, lasting), surroundings)

    def retrieve(split: Split, fold: Fold) -> System:
        return Retrieval(*load_encoders(checkpoint(split, fold), "joint"), lasting)

    def imagenet(name: str, *, shuffled: bool = False) -> System:
        features = EncoderFeatures(imagenet_encoder(IMAGENET_SIZE[profile]), lasting)
        if shuffled:
            features = ShuffledFeatures(features, seed=surroundings.seed)
        return RidgeProbe(name, features, surroundings)

    def stnet(name: str) -> System:
        made = STNet(surroundings, pretrained=False, **STNET[profile])
        made.name = name
        return made

    def entry(name: str, make: Callable[..., System], **options: Any) -> tuple[str, Callable[[], System]]:
        return name, lambda: make(name, **options)

    return [
        entry("ImageNet EfficientNet-Lite0", imagenet),
        entry("ST-Net-style DenseNet, scratch", stnet),
        LinearPerFold(PRETRAINED, probe),
        LinearPerFold(UNTRAINED, untrained),
        PerFold("PAST, retrieval", retrieve),
        MeanOfTraining(surroundings),
        entry(SHUFFLED, imagenet, shuffled=True),
    ]


def run_her2st(profile: str, data: Path | None = None) -> Report:
    """Trains and scores everything, and prints what comes out, whatever it says.

    Args:
        profile: `full`, or `ci` with fewer genes and epochs.
        data: the data set's folder, see `find_her2st`.
    """
    start = time.perf_counter()
    whole = [ExpressionSlide(path) for path in her2st_slides(data)]
    genes = chosen_genes(whole, GENES[profile])
    slides = [SpotSlide(slide.store, genes) for slide in whole]
    target = Target("median")
    split = leave_patients_out(slides)
    seconds = Stopwatch()
    kept: dict[str, bool] = {}
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="her2st-", dir=cache_folder()) as folder:
        surroundings = Surroundings(target, cache=Path(folder))
        evaluation = evaluate(split, systems(profile, surroundings, kept), target, progress=seconds)
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
    chance = by_name.get(SHUFFLED, {}).get("r_per_slide")  # none without ImageNet's weights
    arms = [
        f"{by_name[name]['r']:.3f} {word}"
        for name, word in ((PRETRAINED, "pretrained"), (UNTRAINED, "untrained"))
        if name in by_name
    ] + [
        f"difference {d['difference']:.3f} ({d['low']:.3f} to {d['high']:.3f})"
        for d in content["subsets"]["all"]["differences"]
        if (d["first"], d["second"]) == (PRETRAINED, UNTRAINED)
    ]
    ready = [fold for fold, there in kept.items() if there]
    found = f" (checkpoints of {', '.join(ready)} were in the cache)" if ready else ""
    minutes = (time.perf_counter() - start) / 60
    return Report(
        name="genex-her2st",
        profile=profile,
        columns=["system", "r", "95 % CI", "per slide", *patients],
        rows=table,
        goal="every arm is shown whatever it says; shuffled embeddings within 0.05 of r = 0 within sections",
        figure=(f"r {', '.join(arms)}; shuffled {digits(chance)}; {minutes:.1f} min{found}"),
        passed=chance is not None and abs(chance) < 0.05,
        details={
            "minutes": minutes,
            "seconds": seconds.by_system,
            "pretrained_before": ready,
            "epochs": EPOCHS[profile],
            "targets": TARGETS,
            "stnet": STNET[profile],
            "genes": list(genes),
            "report": content,
        },
    )
