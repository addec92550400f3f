"""What all tasks of survival share: the loss, its steps over patients, and figures of the scored fold."""

import logging
import warnings
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from past_core.errors import PastError
from past_core.training.attached import built, callbacks_of, data_of
from past_core.training.finite import NonFiniteError, require_finite_weights
from past_surv.data.batches import SurvivalBatch
from past_surv.data.fold_data import FoldData
from past_surv.losses import cox_partial_likelihood, nll_survival
from past_surv.metrics.concordance import harrell_c
from past_surv.tasks.record import manifest, require_same

logger = logging.getLogger(__name__)

Loss = Literal["nll", "cox"]
KEY = "past_surv"
"""Entry of a checkpoint that says what its network was built for."""
SHOWN = 5
"""Cases named in a message."""


class SurvivalTaskError(PastError, ValueError):
    """Settings of a task that cannot be, or that do not fit the data."""


class Predicted(NamedTuple):
    """What is predicted of a batch; patients of whom the network can read nothing are not in it.

    Attributes:
        row: `(B,)` row of the cohort.
        risk: `(B,)` higher means a shorter survival.
        survival: `(B, K)` probability of living beyond each interval.
    """

    row: Tensor
    risk: Tensor
    survival: Tensor


class SurvivalTask(pl.LightningModule):
    """A network in training on the patients of one fold.

    The recipe of MCAT by default: one patient a batch, Adam, a step every 32 patients on the summed loss over
    32, a fixed number of epochs, the last of which is scored. What is left at the end of an epoch is stepped
    too, over 32 as well; the original keeps these gradients and mixes them into the next epoch's first step.

    The figures of the scored fold (`val/`) are for monitoring only: choosing an epoch by them flatters every
    system by more than systems differ, so training refuses callbacks that would.

    A subclass builds its network in `build_network` and calls it in `forward`.

    Args:
        loss: `nll`, the likelihood of discrete times, or `cox`, the partial likelihood of the risk.
        alpha: additional weight of deaths in `nll`, while training; validation has none.
        accumulate: patients a step, with `nll`.
        risk_set: patients a step, with `cox`: their risks are compared with one another, over as many batches
            as it takes, and their activations are held until then.
        l1: weight of the sum of absolute weights, once a step. The original adds it for every patient,
            undivided: its 1e-4 is 32e-4 here.
        learning_rate: of Adam.
        weight_decay: L2 penalty, in the gradient.
        gradient_clip: largest norm of a step's gradient; null does not clip.

    Attributes:
        network: after `configure_model`.
        kind: name of the network in exported files.

    Raises:
        SurvivalTaskError: settings out of range, or that do not fit the data, or a choice of epochs by the
            scored fold.
        NonFiniteError: a loss or a weight is NaN or infinite.
    """

    kind: str

    def __init__(
        self,
        *,
        loss: Loss = "nll",
        alpha: float = 0.0,
        accumulate: int = 32,
        risk_set: int = 64,
        l1: float = 0.0,
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-5,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if loss not in ("nll", "cox") or not 0 <= alpha <= 1:
            raise SurvivalTaskError(
                f"model.loss {loss!r} with model.alpha {alpha}; expected nll or cox, and a share from 0 to 1"
            )
        if accumulate < 1 or risk_set < 2:
            raise SurvivalTaskError(
                f"model.accumulate {accumulate}, model.risk_set {risk_set}; expected at least 1 and 2"
            )
        if min(learning_rate, weight_decay, l1) < 0 or (gradient_clip is not None and gradient_clip <= 0):
            raise SurvivalTaskError(
                f"learning_rate {learning_rate}, weight_decay {weight_decay}, l1 {l1}, gradient_clip "
                f"{gradient_clip}; expected none below 0, and a positive gradient_clip or null"
            )
        self.automatic_optimization = False  # a step counts patients, not batches
        self.loss, self.alpha, self.l1 = loss, alpha, l1
        self.step_patients = accumulate if loss == "nll" else risk_set
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.gradient_clip = gradient_clip
        self.network: nn.Module | None = None
        self.manifest: dict[str, Any] = {}
        self.scored: dict[str, float] = {}
        self._total: Tensor | float = 0.0
        self._epoch: list[tuple[Tensor, int]] = []
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._scored: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    # --- what a subclass says -------------------------------------------------------------------------------

    def build_network(self, data: FoldData) -> nn.Module:
        """The network for a fold's groups, patches and intervals.

        Raises:
            SurvivalTaskError: data that it cannot read.
        """
        raise NotImplementedError

    def hazards(self, batch: SurvivalBatch) -> Any:
        """The network's output on a batch, with the fields `hazards`, `survival` and `risk`."""
        raise NotImplementedError

    def readable(self, batch: SurvivalBatch) -> Tensor:
        """`(B,)` bool: patients who have what the network reads."""
        return torch.ones(len(batch.row), dtype=torch.bool, device=batch.row.device)

    # --- building -------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the network for the data module's fold."""
        if self.network is not None:
            return
        data = getattr(getattr(self.trainer, "datamodule", None), "data", None)
        if data is None:
            raise SurvivalTaskError(
                "a task of survival takes its groups, patches and intervals from a data module; give "
                "past_surv.data.datamodule.SurvivalDataModule"
            )
        self.network = self.build_network(data)
        self.manifest = manifest(self.kind, self.network_options(), data)

    def network_options(self) -> dict[str, Any]:
        """What the network was built with beyond the data, for the file that rebuilds it."""
        return {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with the penalty in the gradient, as published."""
        return torch.optim.Adam(
            built(self.network).parameters(),
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=self.device.type in ("cuda", "cpu"),
        )

    def forward(self, batch: SurvivalBatch) -> Predicted:
        """Predicts the patients of a batch whom the network can read."""
        batch = some(batch, self.readable(batch))
        if not len(batch.row):
            return Predicted(batch.row, batch.time[:0], batch.time[:0, None])
        output = self.hazards(batch)
        return Predicted(batch.row, output.risk, output.survival)

    # --- training -------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuses a choice by the scored fold, and several processes.

        Raises:
            SurvivalTaskError: so it is.
        """
        if self.trainer.world_size > 1:
            raise SurvivalTaskError(
                f"{self.trainer.world_size} processes; a step counts the patients of one, so set "
                "trainer.devices to 1 and train folds side by side with `past survival --jobs`"
            )
        # Lightning advises to save weights from before the step; those after it are meant.
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
        for callback in callbacks_of(self.trainer):
            monitored = getattr(callback, "monitor", None)
            if isinstance(callback, ModelCheckpoint | EarlyStopping) and str(monitored).startswith("val"):
                raise SurvivalTaskError(
                    f"{type(callback).__name__} monitors {monitored!r}, a figure of the fold that is scored; "
                    "train a fixed number of epochs, or choose it inside the training fold: `past survival "
                    "--selection nested`"
                )

    def on_train_epoch_start(self) -> None:
        """Nothing waits for a step yet."""
        self._forget()
        self._epoch = []
        self._optimizer().zero_grad()

    def _optimizer(self) -> LightningOptimizer:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)  # `configure_optimizers` gives one
        return optimizer

    def on_train_batch_start(self, batch: SurvivalBatch, batch_idx: int) -> None:
        """Makes dropout a function of (seed, epoch, batch), so that a resumed training repeats it."""
        from numpy.random import SeedSequence

        seed = int(getattr(data_of(self.trainer), "seed", 0))
        torch.manual_seed(int(SeedSequence([seed, self.current_epoch, batch_idx, 1]).generate_state(1)[0]))

    def training_step(self, batch: SurvivalBatch, batch_idx: int) -> None:
        """Adds a batch's gradient; steps when enough patients were seen, and at the end of an epoch."""
        batch = some(batch, self.readable(batch))
        if len(batch.row):
            output = self.hazards(batch)
            risk = output.risk
            if self.loss == "nll":
                risk = risk.detach()
                loss = nll_survival(output.hazards, batch.interval, batch.censored, alpha=self.alpha)
                loss = loss * len(batch.row)
                self.manual_backward(loss / self.step_patients)
                self._total = self._total + loss.detach()
            self._seen.append((batch.row, risk, batch.time, batch.event))
        if self._count() >= self.step_patients or self.trainer.is_last_batch:
            self._step()

    def _count(self) -> int:
        return sum(len(rows) for rows, *_ in self._seen)

    def _step(self) -> None:
        count = self._count()
        if not count:
            return
        rows, risk, time, event = (torch.cat(column) for column in zip(*self._seen, strict=True))
        if self.loss == "cox":
            if not event.any() or count < 2:
                self._forget()  # nobody's death says who should have been at a lower risk
                return
            loss = cox_partial_likelihood(risk, time, event)
            self.manual_backward(loss)
            mean = loss.detach()
        else:
            mean = torch.as_tensor(self._total) / count
        self._require_finite(mean, rows)
        network = built(self.network)
        if self.l1:
            first, *others = (p.abs().sum() for p in network.parameters())
            self.manual_backward(self.l1 * sum(others, start=first))
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip)
        optimizer = self._optimizer()
        optimizer.step()
        optimizer.zero_grad()
        self._forget()
        self._epoch.append((mean, count))
        self.log("train/loss", mean, batch_size=count, prog_bar=True)

    def _forget(self) -> None:
        self._seen, self._total = [], 0.0

    def _require_finite(self, loss: Tensor, rows: Tensor) -> None:
        if torch.isfinite(loss):
            return
        cases = data_of(self.trainer).data.cohort.cases[rows.cpu().numpy()]
        more = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
        raise NonFiniteError(
            f"the loss is {float(loss)} at step {self.global_step} (epoch {self.current_epoch}), over the "
            f"cases {', '.join(map(str, cases[:SHOWN]))}{more}. Look at their "
            "embeddings and genes, or lower model.learning_rate"
        )

    def on_train_epoch_end(self) -> None:
        """Logs the loss over the whole epoch, and refuses to go on with weights that are not finite."""
        require_finite_weights(built(self.network), step=self.global_step)
        if self._epoch:
            total = sum(float(mean) * count for mean, count in self._epoch)
            self.log("train/loss_epoch", total / sum(count for _, count in self._epoch))

    # --- the scored fold ------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Nobody was scored yet."""
        self._scored = []

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: SurvivalBatch, batch_idx: int) -> None:
        """Keeps a batch's risks; the loss has no additional weight here."""
        batch = some(batch, self.readable(batch))
        if len(batch.row):
            output = self.hazards(batch)
            loss = nll_survival(output.hazards, batch.interval, batch.censored) * len(batch.row)
            self._scored.append((output.risk, batch.time, batch.event, loss))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs the loss and Harrell's C of the scored fold, for monitoring only."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Logs the loss and Harrell's C of the scored fold."""
        self._score("test")

    def _score(self, part: str) -> None:
        scored, self._scored = self._scored, []
        if not scored or self.trainer.sanity_checking:
            return
        *columns, losses = zip(*scored, strict=True)
        risk, time, event = (torch.cat(column).float().cpu().numpy() for column in columns)
        index = harrell_c(event.astype(bool), time, risk)
        figures = {f"{part}/loss": float(sum(losses)) / len(risk)}
        if index.value is None:
            logger.warning("%s/c_index is undefined: %s", part, index.problem)
        else:
            figures[f"{part}/c_index"] = index.value
        self.scored = figures
        self.log_dict(figures, batch_size=len(risk), prog_bar=True)

    def predict_step(self, batch: SurvivalBatch, batch_idx: int) -> Predicted:
        """Risks and curves of a batch."""
        return self(batch)

    # --- checkpoints ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says what the network was built for."""
        checkpoint[KEY] = self.manifest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the weights of other groups, patches, or training patients.

        Raises:
            SurvivalCheckpointError: they are.
        """
        require_same(checkpoint.get(KEY), self.manifest)


def some(batch: SurvivalBatch, keep: Tensor) -> SurvivalBatch:
    """The patients of a batch for whom `keep`, `(B,)` bool, is true."""
    if keep.all():
        return batch
    return SurvivalBatch._make(
        tuple(x[keep] for x in value) if isinstance(value, tuple) else value[keep] for value in batch
    )
