"""The linear probe trained by gradient, on a frozen encoder's features or with the encoder fine-tuned."""

import logging
from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from past_core.augment import Augmentation, augment, dihedral
from past_core.callbacks import run_folder
from past_core.errors import PastError
from past_core.training.attached import built, data_of
from past_core.training.optimisation import planned_steps, warmup_cosine
from past_genex.data.batches import ExpressionBatch
from past_genex.metrics.pairs import PairMoments
from past_genex.metrics.streaming import PearsonByGene
from past_genex.probe.files import save_probe
from past_genex.probe.model import Probe, ProbeMismatchError
from past_genex.probe.trust import Trust

logger = logging.getLogger(__name__)

PROBE_FILE = "probe.safetensors"
SYMMETRIES = 8
"""Flips and quarter turns of a square."""
Reduction = Literal["value", "gene"]


class ProbeTrainingError(PastError, ValueError):
    """Options, targets or checkpoints that a probe cannot be trained with."""


def masked_mse(predicted: Tensor, truth: Tensor, *, per: Reduction = "value") -> Tensor:
    """Squared error over measured genes: `(B, G)` both; NaN truth is left out.

    Args:
        predicted: predictions.
        truth: what was measured.
        per: `value` is its mean over cells and genes; `gene` its sum over cells, averaged over genes.
    """
    measured = ~torch.isnan(truth)
    error = torch.where(measured, predicted - torch.where(measured, truth, 0.0), 0.0)
    count = measured.sum() if per == "value" else measured.any(dim=0).sum()
    return error.square().sum() / count.clamp_min(1)


def symmetric_mean(predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean prediction over the eight flips and quarter turns of `(B, C, L, L)` images."""
    total = torch.zeros((), device=images.device)
    for element in range(SYMMETRIES):
        total = total + predict(dihedral(images, torch.full((len(images),), element)))
    return total / SYMMETRIES


def _check_options(**given: str) -> None:
    known = {"optimizer": ("adamw", "sgd"), "schedule": ("cosine", "constant"), "loss_per": ("value", "gene")}
    for option, value in given.items():
        if value not in known[option]:
            raise ProbeTrainingError(f"model.{option} is {value!r}; expected {' or '.join(known[option])}")


class LinearHead(nn.Module):
    """An affine map from standardised features to genes.

    Args:
        dim: d.
        bias: `(G,)` where the bias starts: the training mean.
        mean: `(d,)` subtracted from the features; 0 by default.
        scale: `(d,)` they are divided by; 1 by default.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, dim: int, bias: Tensor, *, mean: Tensor | None = None, scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, len(bias))
        nn.init.zeros_(self.linear.weight)
        with torch.no_grad():
            self.linear.bias.copy_(bias)
        self.register_buffer("mean", torch.zeros(dim) if mean is None else mean)
        self.register_buffer("scale", torch.ones(dim) if scale is None else scale)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, d)` to `(B, G)`."""
        return self.linear((features - self.mean) / self.scale)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight `(d, G)` and bias `(G,)` on plain features, float64."""
        weight = self.linear.weight.detach().double() / self.scale.double()
        bias = self.linear.bias.detach().double() - weight @ self.mean.double()
        return weight.T.cpu().numpy(), bias.cpu().numpy()


class LinearProbe(pl.LightningModule):
    """Trains a linear head on an image encoder (paper, Methods, gene expression prediction).

    Args:
        finetune: train the encoder too; needs `data.supply: pixels`.
        standardise: features to mean 0 and deviation 1 over training cells; folded into the saved weights.
        optimizer: `adamw`, or `sgd` with momentum.
        learning_rate: the peak.
        schedule: after the warm-up, a `cosine` by step to 0, or `constant`.
        weight_decay: decoupled for AdamW; on matrices, not on biases and norms.
        momentum: of SGD.
        warmup: share of the steps with linear warm-up.
        loss_per: the squared error is averaged over cells and genes (`value`), or averaged over genes and
            summed over the cells of a rank's batch (`gene`): the same minimum, and gradients larger by the
            number of cells.
        augmentation: of pixels in training; null leaves them as they are.
        average_symmetries: held-out predictions are means over the eight flips and quarter turns of a patch;
            needs `data.supply: pixels`.

    Raises:
        ProbeTrainingError: unknown options, fine-tuning on features, or a checkpoint of other genes.
        ProbeMismatchError: a checkpoint of another encoder.
    """

    def __init__(
        self,
        *,
        finetune: bool = False,
        standardise: bool = True,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float = 1e-2,
        schedule: Literal["cosine", "constant"] = "cosine",
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        warmup: float = 0.05,
        loss_per: Reduction = "value",
        augmentation: Augmentation | None = None,
        average_symmetries: bool = False,
    ) -> None:
        super().__init__()
        _check_options(optimizer=optimizer, schedule=schedule, loss_per=loss_per)
        self.finetune, self.standardise, self.optimizer_name = finetune, standardise, optimizer
        self.learning_rate, self.weight_decay, self.momentum = learning_rate, weight_decay, momentum
        self.warmup, self.schedule, self.loss_per = warmup, schedule, loss_per
        self.augmentation, self.average_symmetries = augmentation, average_symmetries
        self.head: LinearHead | None = None
        self.backbone: nn.Module | None = None
        self.slide_r: dict[int, np.ndarray] = {}
        self.pairs: PairMoments | None = None

    def configure_model(self) -> None:
        """Builds the head once the genes are known."""
        if self.head is not None:
            return
        data = data_of(self.trainer)
        for option in ("finetune", "average_symmetries"):
            if getattr(self, option) and not data.pixels:
                raise ProbeTrainingError(
                    f"model.{option} needs data.supply: pixels; features are of a fixed encoder and of "
                    "patches as they lie"
                )
        mean, scale = (
            self._standardisation() if self.standardise and data.features is not None else (None, None)
        )
        self.head = LinearHead(
            data.encoder.dim, torch.as_tensor(data.target_mean, dtype=torch.float32), mean=mean, scale=scale
        )
        if self.finetune:
            # Lightning leaves the mode as it is, and a frozen encoder's is evaluation.
            self.backbone = data.encoder.network.requires_grad_(requires_grad=True).train()
        elif data.pixels:
            data.encoder.to(self.trainer.strategy.root_device)
        genes = len(data.genes)
        self.by_slide = nn.ModuleDict({str(number): PearsonByGene(genes) for number in data.val_slides})

    def _standardisation(self) -> tuple[Tensor, Tensor]:
        data = data_of(self.trainer)
        n, total, square = 0, 0.0, 0.0
        parts = [data.features[i][data.train_cells[i]] for i in data.train_slides]
        for part in parts:
            n, total = n + len(part), total + part.sum(axis=0, dtype=np.float64)
        mean = total / n
        for part in parts:
            square = square + ((part - mean) ** 2).sum(axis=0)
        deviation = np.sqrt(square / n)
        # A feature that does not vary stays as it is: dividing by its rounding would make noise of it.
        deviation = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1.0), deviation, 1.0)
        return torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(deviation, dtype=torch.float32)

    def forward(self, inputs: Tensor) -> Tensor:
        """`(B, d)` features or `(B, 3, L, L)` uint8 pixels to `(B, G)`."""
        if inputs.ndim == 4:
            if self.backbone is not None:
                inputs = self.backbone(inputs)
            else:
                inputs = data_of(self.trainer).encoder(inputs)
        return built(self.head)(inputs)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW or SGD with momentum; the schedule is by step."""
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        else:
            optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
        _, total = planned_steps(self.trainer)
        schedule = warmup_cosine(
            optimizer,
            warmup=int(self.warmup * total),
            total=total,
            start=self.learning_rate / 100,
            final=0.0 if self.schedule == "cosine" else self.learning_rate,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: ExpressionBatch, batch_idx: int) -> Tensor:
        """Squared error over measured genes."""
        inputs = batch.inputs
        if inputs.ndim == 4 and self.augmentation is not None:
            key = [data_of(self.trainer).seed, self.current_epoch, batch_idx, self.global_rank]
            seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
            inputs = augment(inputs, self.augmentation, torch.Generator().manual_seed(seed))
        loss = masked_mse(self(inputs), batch.targets, per=self.loss_per)
        if not torch.isfinite(loss):
            raise ProbeTrainingError(
                f"the loss is {float(loss)} at step {self.global_step}; lower model.learning_rate"
            )
        self.log("train/loss", loss, prog_bar=True)
        return loss

    # --- held-out cells -------------------------------------------------------------------------------------

    def predicted(self, inputs: Tensor) -> Tensor:
        """Held-out predictions `(B, G)`, averaged over symmetries where the options say so."""
        return symmetric_mean(self, inputs) if self.average_symmetries else self(inputs)

    def validation_step(self, batch: ExpressionBatch, batch_idx: int) -> None:
        """Adds the moments of a batch to its slide's."""
        predicted = self.predicted(batch.inputs)
        for number in batch.slide.unique().tolist():
            rows = batch.slide == number
            self._metric(str(number)).update(predicted[rows], batch.targets[rows])

    def _metric(self, number: str) -> PearsonByGene:
        metric = self.by_slide[number]
        assert isinstance(metric, PearsonByGene)
        return metric

    test_step = validation_step

    def predict_step(self, batch: ExpressionBatch, batch_idx: int) -> dict[str, Tensor]:
        """Predictions with the slide and cell that they are of."""
        return {"slide": batch.slide, "cell": batch.cell, "expression": self.predicted(batch.inputs)}

    def _finish(self, prefix: str) -> None:
        pairs = []
        self.slide_r = {}
        for number in self.by_slide:
            metric = self._metric(number)
            with metric.sync_context():  # moments of all ranks, merged; nothing where there is one
                pairs.append(metric.pairs)
            self.slide_r[int(number)] = pairs[-1].r
            metric.reset()
        stacked = PairMoments.stack(pairs)
        self.pairs = stacked.merged()
        values = {"r": self.pairs.r, "r_slide": np.concatenate(list(self.slide_r.values()))}
        for name, r in values.items():
            if np.isfinite(r).any():
                self.log(f"{prefix}/{name}", float(np.nanmean(r)), prog_bar=True, rank_zero_only=False)

    def on_validation_epoch_end(self) -> None:
        """Pearson's r by gene: over all held-out cells, and by slide."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """As after validation."""
        self._finish("test")

    # --- what is kept ---------------------------------------------------------------------------------------

    def probe(self) -> Probe:
        """The trained head as a probe, with the last held-out r by gene.

        Raises:
            ProbeTrainingError: the encoder was fine-tuned: the head is of no use on the published one.
        """
        if self.finetune:
            raise ProbeTrainingError("a fine-tuned encoder is in the checkpoint only; no probe is written")
        data = data_of(self.trainer)
        n = len(data.genes)
        r = np.full(n, np.nan) if self.pairs is None else self.pairs.r
        held = [data.slides[i] for i in data.val_slides]
        patients = np.zeros(n, np.int64)
        for patient in {slide.patient for slide in held}:
            patients += np.any([data.genes.isin(s.genes) for s in held if s.patient == patient], axis=0)
        unknown = np.full(n, np.nan)  # one fold gives no interval; `past probe` makes them over all folds
        weight, bias = built(self.head).folded()
        return Probe(
            encoder=data.encoder.name,
            fingerprint=data.encoder.fingerprint,
            space=data.encoder.space,
            genes=data.genes,
            symbols=data.symbols,
            target=data.target,
            weight=weight,
            bias=bias,
            trust_table=Trust(r, unknown, unknown, patients, f"{data.split.name}: {data.fold.name}"),
            slides=tuple(data.slides[i].name for i in data.train_slides),
            patients=tuple(sorted({data.slides[i].patient for i in data.train_slides})),
            cells=data.n_train,
            demo=data.encoder.demo,
            notes={"trained": "by gradient", "epochs": int(self.current_epoch)},
        )

    def on_fit_end(self) -> None:
        """Writes the probe beside the run's checkpoints."""
        if self.finetune or not self.trainer.is_global_zero:
            return
        folder = run_folder(self.trainer) / "checkpoints"
        logger.info("wrote %s", save_probe(self.probe(), folder / PROBE_FILE))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the head is of."""
        data = data_of(self.trainer)
        checkpoint["past_genex"] = {
            "encoder": data.encoder.name,
            "fingerprint": data.encoder.fingerprint,
            "genes": list(map(str, data.genes)),
            "fold": f"{data.split.name}: {data.fold.name}",
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another encoder or of other genes."""
        saved, data = checkpoint.get("past_genex"), data_of(self.trainer)
        if not saved:
            return
        if saved["fingerprint"] != data.encoder.fingerprint:
            raise ProbeMismatchError(
                f"the checkpoint is of {saved['encoder']} (fingerprint {saved['fingerprint'][:12]}), "
                f"data.encoder is {data.encoder.name} (fingerprint {data.encoder.fingerprint[:12]})"
            )
        if saved["genes"] != list(map(str, data.genes)):
            raise ProbeTrainingError(
                f"the checkpoint predicts {len(saved['genes'])} genes, the data have {len(data.genes)} or "
                "others; resume with the same slides, data.genes, data.setting and data.fold"
            )
