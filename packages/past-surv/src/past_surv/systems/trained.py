"""Systems whose network is trained on bags and groups of genes: MCAT, PAST-multi and attention MIL."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from past_core.errors import PastError
from past_surv.data.cohort import Cohort
from past_surv.data.fold_data import FoldData
from past_surv.data.splits import Fold
from past_surv.systems.base import FoldPrediction, Predicting

if TYPE_CHECKING:
    import pandas as pd

    from past_surv.data.bags import BagFolder
    from past_surv.tasks.base import SurvivalTask

logger = logging.getLogger(__name__)

Selection = Literal["last", "nested"]


class TrainingError(PastError, ValueError):
    """Settings of a training that cannot be, or a training fold that cannot be divided."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained; MCAT's recipe by default.

    Attributes:
        epochs: passes over the training fold; with nested selection, the most.
        selection: `last` scores the last epoch's weights. `nested` finds the number of epochs with the
            highest mean C on inner folds of the training fold, then trains anew on all of it for that many.
            No choice ever sees the scored fold.
        inner_folds: of nested selection.
        batch_size: patients a batch; bags are padded to the longest. Steps count patients, so that it changes
            speed and memory, and of the figures only what dropout draws.
        max_patches: of a training patient, drawn anew each epoch; None takes all. Scored patients have all.
        sampler: `balanced` draws intervals and deaths evenly, with replacement; `plain` takes each patient
            once.
        intervals: of time.
        loss: `nll` or `cox`; see `SurvivalTask`, also for what follows.
        alpha: additional weight of deaths.
        accumulate: patients a step, with `nll`.
        risk_set: patients a step, with `cox`.
        l1: weight of the sum of absolute weights.
        learning_rate: of Adam.
        weight_decay: L2.
        gradient_clip: largest norm of a gradient.
        require_slides: a patient without slides is an error.
        require_omics: a patient without a group of genes is an error.
        accelerator: Lightning's: `auto`, `cpu`, `gpu`.
        precision: Lightning's: `32-true`, or `bf16-mixed` on a GPU.
    """

    epochs: int = 20
    selection: Selection = "last"
    inner_folds: int = 3
    batch_size: int = 1
    max_patches: int | None = None
    sampler: Literal["balanced", "plain"] = "balanced"
    intervals: int = 4
    loss: Literal["nll", "cox"] = "nll"
    alpha: float = 0.0
    accumulate: int = 32
    risk_set: int = 64
    l1: float = 0.0
    learning_rate: float = 2e-4
    weight_decay: float = 1e-5
    gradient_clip: float | None = None
    require_slides: bool = False
    require_omics: bool = False
    accelerator: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.selection not in ("last", "nested"):
            raise TrainingError(f"selection {self.selection!r}; expected last or nested")
        if min(self.epochs, self.batch_size) < 1 or self.inner_folds < 2:
            raise TrainingError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, inner_folds {self.inner_folds}; "
                "expected at least 1, 1 and 2"
            )

    def of_task(self) -> dict[str, Any]:
        """What a task takes."""
        names = ("loss", "alpha", "accumulate", "risk_set", "l1", "learning_rate", "weight_decay")
        return {name: getattr(self, name) for name in (*names, "gradient_clip")}


class TrainedSystem(Predicting):
    """A network that is trained anew for every fold, by Lightning, without logs or checkpoints.

    Args:
        bags: patches of the slides; None where the network reads none.
        groups: symbols of genes by group; None where the network reads none, or all genes as they come.
        vectors: one a patient, by case id, which becomes the last group.
        training: how it is trained.
    """

    name: str

    def __init__(
        self,
        *,
        bags: "BagFolder | None",
        groups: Mapping[str, Sequence[str]] | None,
        vectors: "pd.DataFrame | None" = None,
        training: Training,
    ) -> None:
        self.bags, self.groups, self.vectors = bags, groups, vectors
        self.training = training

    def task(self) -> "SurvivalTask":
        """A new task, its network not yet built."""
        raise NotImplementedError

    def fold_data(self, cohort: Cohort, fold: Fold) -> FoldData:
        """What the network reads of a fold."""
        return FoldData.of(
            cohort,
            fold,
            self.groups,
            bags=self.bags,
            vectors=self.vectors,
            intervals=self.training.intervals,
            require_slides=self.training.require_slides,
            require_omics=self.training.require_omics,
        )

    def predict(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> FoldPrediction:
        """Trains on the training rows, for epochs whose number no scored outcome decides, and predicts."""
        from past_surv.tasks.training import fit, predicted

        data = self.fold_data(cohort, fold)
        info: dict[str, object] = {"selection": self.training.selection}
        epochs = self.training.epochs
        if self.training.selection == "nested":
            epochs, info["inner_c"] = self._choose_epochs(cohort, fold, seed)
        task = self.task()
        with torch.random.fork_rng(devices=[]):
            run = fit(task, data, self.training, epochs=epochs, seed=seed)
            row, risk, survival = predicted(task, data, fold.test, self.training)
        place = {int(r): number for number, r in enumerate(fold.test)}
        where = np.array([place[int(r)] for r in row], int)
        risks = np.full(len(fold.test), np.nan)
        curves = np.full((len(fold.test), len(data.intervals)), np.nan)
        risks[where], curves[where] = risk, survival
        left_out = cohort.cases[fold.test[np.isnan(risks)]].astype(str).tolist()
        if left_out:
            logger.warning(
                "%s, fold %s: %s says nothing of %d scored patients without input, such as %s",
                cohort.name,
                fold.name,
                self.name,
                len(left_out),
                left_out[0],
            )
        info |= {
            "epochs": epochs,
            "steps": run.steps,
            "train_loss": run.loss,
            "parameters": sum(p.numel() for p in task.parameters()),
            "patch_dim": data.patch_dim,
            "group_sizes": list(data.group_sizes),
            "edges": data.intervals.edges[1:-1].tolist(),
            "absent": [f"{case}: {what}" for case, what in data.absent],
            "not_predicted": left_out,
        }
        # A partial likelihood orders patients; it knows no time.
        likelihood = self.training.loss == "nll"
        return FoldPrediction(
            risk=risks,
            survival=curves if likelihood else None,
            edges=data.intervals.edges if likelihood else None,
            info=info,
        )

    def _choose_epochs(self, cohort: Cohort, fold: Fold, seed: int) -> tuple[int, list[float]]:
        """The number of epochs with the highest mean C on inner folds, and those means."""
        from past_surv.tasks.training import fit

        scores = []
        for inner in inner_folds(cohort, fold, folds=self.training.inner_folds, seed=seed):
            with torch.random.fork_rng(devices=[]):
                run = fit(
                    self.task(),
                    self.fold_data(cohort, inner),
                    self.training,
                    epochs=self.training.epochs,
                    seed=seed,
                    score=inner.test,
                )
            scores.append(run.scores)
        mean = np.mean(scores, axis=0)
        return int(mean.argmax()) + 1, mean.round(4).tolist()


def inner_folds(cohort: Cohort, fold: Fold, *, folds: int, seed: int) -> list[Fold]:
    """Folds of a training fold, of like numbers of deaths, without a site on both sides where sites allow.

    Raises:
        TrainingError: fewer deaths than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    rows, event = fold.train, cohort.event[fold.train]
    if event.sum() < folds:
        raise TrainingError(
            f"{cohort.name}, fold {fold.name}: {int(event.sum())} deaths in the training fold do not make "
            f"{folds} inner folds; take selection last, or fewer inner_folds"
        )
    options = {"n_splits": folds, "shuffle": True, "random_state": seed}
    if "site" in cohort.clinical:
        site = cohort.clinical["site"].astype(str).to_numpy()[rows]
        if len(np.unique(site)) >= folds:
            made = list(StratifiedGroupKFold(**options).split(rows, event, site))
            if all(event[train].any() and event[held].any() for train, held in made):
                return _named(fold, made)
    return _named(fold, list(StratifiedKFold(**options).split(rows, event)))


def _named(fold: Fold, made: list[tuple[np.ndarray, np.ndarray]]) -> list[Fold]:
    return [
        Fold(name=f"{fold.name}.{number}", train=fold.train[train], test=fold.train[held])
        for number, (train, held) in enumerate(made)
    ]
