"""What all tasks of virtual staining share: building, evaluation, the moving average, checkpoints."""

import math
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from past_core.errors import PastError
from past_core.training.attached import built, data_of
from past_core.training.finite import NonFiniteError, not_finite
from past_core.training.optimisation import planned_steps
from past_vihc.data.batch import StainBatch
from past_vihc.files import KEY, GeneratorInfo, StainModel, generator_entry
from past_vihc.models.diffusion.average import averaged
from past_vihc.models.generator import FiLMGenerator
from past_vihc.models.scaling import to_uint8, to_unit
from past_vihc.tasks.record import generator_info, require_same_generator
from past_vihc.tasks.watch import LossWatch

Schedule = Literal["constant", "linear"]
LOOK_INTERVAL = 20
"""Steps between two looks at the losses on an accelerator; on the CPU looking is free."""


class StainTaskError(PastError, ValueError):
    """Settings of a task that cannot be, or that do not fit the data."""


def decay_factor(step: int, *, total: int, start: float) -> float:
    """1 until `start` of all steps are taken, then linear, 0 after the last one.

    Args:
        step: steps taken.
        total: steps of the whole training.
        start: share of them with the full learning rate.
    """
    first = start * total
    return 1.0 if step <= first else max(0.0, (total - step) / (total - first))


class StainTask(pl.LightningModule):
    """A generator in training, evaluated by what it makes of held-out tiles.

    A subclass builds its networks in `build`, from what the data module says, and trains them; `generator` is
    what is evaluated, averaged and exported, in the form `generator(he, embedding, stain)`.

    Args:
        learning_rate: of all optimisers.
        betas: of Adam.
        schedule: `constant`, or `linear` decay to 0 by step.
        decay_from: share of the steps after which `linear` decays.
        gradient_clip: largest norm of the gradients of an optimiser's networks; null does not clip.
        ema: decay of the moving average of the generator's weights, which is then evaluated and exported;
            null keeps none.
        presets: thresholds by which H-scores of held-out nuclei are compared: a preset's name, or one for
            each stain; null compares none.

    Attributes:
        generator: after `configure_model`.
        average: its moving average, or None.
        evaluator: of the last validation or test.

    Raises:
        StainTaskError: settings out of range, or that do not fit the data.
        NonFiniteError: a loss or a weight is NaN or infinite.
    """

    def __init__(
        self,
        *,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        schedule: Schedule = "constant",
        decay_from: float = 0.5,
        gradient_clip: float | None = None,
        ema: float | None = None,
        presets: dict[str, str] | str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if schedule not in ("constant", "linear") or not 0 <= decay_from < 1:
            raise StainTaskError(
                f"model.schedule {schedule!r} with model.decay_from {decay_from}; expected constant or "
                "linear, and 0 or more and less than 1"
            )
        if ema is not None and not 0 < ema < 1:
            raise StainTaskError(f"model.ema {ema}; expected between 0 and 1, or null")
        self.learning_rate, self.betas = learning_rate, (betas[0], betas[1])
        self.schedule, self.decay_from = schedule, decay_from
        self.gradient_clip, self.ema, self.presets = gradient_clip, ema, presets
        self.generator: nn.Module | None = None
        self.average: AveragedModel | None = None
        self.evaluator: Any = None
        self.watch = LossWatch(1)

    # --- building -------------------------------------------------------------------------------------------

    def build(self, data: Any) -> None:
        """Makes `generator` and all other networks; called once, after the data module's `setup`.

        Args:
            data: the data module: `stains`, `mpp`, `tile`, `granularity`, `pitch_um`, `embedding_dim`,
                `encoder` (or None), `synthetic`.
        """
        raise NotImplementedError

    def configure_model(self) -> None:
        """Builds the networks once the data are known, before DDP wraps them."""
        if self.generator is not None:
            return
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise StainTaskError(
                "a task of virtual staining takes its stains, resolution and encoder from a data module; "
                "give past_vihc.data.datamodule.StainDataModule"
            )
        self.build(data)
        if self.ema is not None:
            self.average = averaged(built(self.generator), decay=self.ema)

    def adam(self, *networks: nn.Module) -> torch.optim.Adam:
        """Adam over all weights of some networks."""
        weights = [p for network in networks for p in network.parameters() if p.requires_grad]
        fused = self.device.type in ("cuda", "cpu")
        return torch.optim.Adam(weights, lr=self.learning_rate, betas=self.betas, fused=fused)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """The learning rate by step, as the settings say."""
        if self.schedule == "constant":
            return LambdaLR(optimizer, lambda step: 1.0)
        _, total = planned_steps(self.trainer)
        return LambdaLR(optimizer, lambda step: decay_factor(step, total=total, start=self.decay_from))

    # --- training -------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Nothing was watched yet."""
        self.watch = LossWatch(1 if self.device.type == "cpu" else LOOK_INTERVAL)

    def on_train_batch_start(self, batch: StainBatch, batch_idx: int) -> None:
        """Makes what is drawn at random a function of (epoch, step, rank), so that resuming repeats it."""
        torch.manual_seed(self.step_seed(batch_idx))

    def step_seed(self, batch_idx: int, *, purpose: int = 0) -> int:
        """A seed for one batch of one process."""
        from numpy.random import SeedSequence

        seed = int(getattr(data_of(self.trainer), "seed", 0))
        key = [seed, self.current_epoch, batch_idx, self.global_rank, purpose]
        return int(SeedSequence(key).generate_state(1)[0])

    def update_average(self) -> None:
        """Moves the average; a task calls it after its optimiser's step, before a callback can save."""
        if self.average is not None:
            self.average.update_parameters(built(self.generator))

    def on_train_end(self) -> None:
        """Looks at what is left to be looked at."""
        self.watch.look()

    # --- evaluation -----------------------------------------------------------------------------------------

    @property
    def best_generator(self) -> nn.Module:
        """The moving average where there is one, else the generator itself."""
        return built(self.generator) if self.average is None else self.average.module

    def exported(self) -> FiLMGenerator:
        """`best_generator`, of the kind that has a file.

        Raises:
            StainTaskError: this task's generator has none.
        """
        return _with_file(self.best_generator)

    def embedding(self, batch: StainBatch) -> Tensor | None:
        """What conditions a batch; None where nothing does."""
        return batch.embedding if getattr(self.generator, "embedding_dim", 0) else None

    @torch.no_grad()
    def translate(self, batch: StainBatch) -> Tensor:
        """The virtual stain of a batch, by the moving average where there is one: `(B, 3, S, S)` uint8."""
        network = self.best_generator
        training = network.training
        network.eval()
        try:
            return to_uint8(network(to_unit(batch.he), self.embedding(batch), batch.stain))
        finally:
            network.train(training)

    def new_evaluator(self) -> Any:
        """An empty evaluator of this data module's stains."""
        from past_vihc.evaluation.evaluator import StainEvaluator

        return StainEvaluator(data_of(self.trainer).stains, presets=self.presets)

    def on_validation_epoch_start(self) -> None:
        """Starts afresh."""
        self.evaluator = self.new_evaluator()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: StainBatch, batch_idx: int) -> None:
        """Stains a batch and compares it with the real stain."""
        self.evaluator.update(self.translate(batch), batch)

    test_step = validation_step

    def predict_step(self, batch: StainBatch, batch_idx: int) -> Tensor:
        """The virtual stain of a batch, see `translate`."""
        return self.translate(batch)

    def on_validation_epoch_end(self) -> None:
        """Merges the ranks' figures and logs their means."""
        self._log_summary("val")

    def on_test_epoch_end(self) -> None:
        """As after validation."""
        self._log_summary("test")

    def _log_summary(self, prefix: str) -> None:
        self.evaluator.merge()
        figures = {f"{prefix}/{name}": float(value) for name, value in self.evaluator.summary().items()}
        # An undefined figure (no nuclei, no variance) is left out: a monitor would take NaN for a value.
        self.log_dict({name: value for name, value in figures.items() if math.isfinite(value)})

    # --- what is kept ---------------------------------------------------------------------------------------

    def info(self) -> GeneratorInfo:
        """What the generator was trained at and with, from the data module."""
        return generator_info(self, built(self.generator), embeddings=self.embeddings_used())

    def embeddings_used(self) -> str:
        """`true`, `shuffled` or `none`."""
        if not getattr(self.generator, "embedding_dim", 0):
            return "none"
        return "shuffled" if getattr(data_of(self.trainer), "shuffle_embeddings", False) else "true"

    def stain_model(self) -> StainModel:
        """A copy of the generator as it is, ready to stain whole images."""
        generator = FiLMGenerator(**_with_file(built(self.generator)).config)
        generator.load_state_dict(self.best_generator.state_dict())
        return StainModel(generator, self.info()).to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what `export_generator` needs.

        Raises:
            NonFiniteError: a loss or a weight is not finite; nothing is written then.
        """
        self.watch.look()
        bad = not_finite(self.named_parameters())
        if bad:
            raise NonFiniteError(
                f"after step {self.global_step} {len(bad)} weights are not finite ({', '.join(bad[:3])}), "
                "while every loss up to there was: a gradient overflowed. They were not saved. Lower "
                "model.learning_rate or set model.gradient_clip, then go on with --ckpt_path last"
            )
        entry = self.checkpoint_entry()
        if entry is not None:
            checkpoint[KEY] = entry

    def checkpoint_entry(self) -> dict[str, Any] | None:
        """What a checkpoint keeps beside weights; None where the generator has no file of its own."""
        return generator_entry(_with_file(built(self.generator)), self.info())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of other stains or another encoder.

        Raises:
            GeneratorMismatchError: names what differs.
        """
        require_same_generator(checkpoint.get(KEY), stains=data_of(self.trainer).stains, info=self.info())


def _with_file(generator: nn.Module) -> FiLMGenerator:
    if not isinstance(generator, FiLMGenerator):
        raise StainTaskError(f"a {type(generator).__name__} has no generator file; `past stain` takes FiLM's")
    return generator
