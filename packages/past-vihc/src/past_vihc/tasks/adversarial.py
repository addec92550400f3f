"""Training two sides against each other in one step: a generator, and a discriminator of what it makes."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from past_vihc.data.batch import StainBatch
from past_vihc.models.scaling import to_unit
from past_vihc.models.warp import random_affine
from past_vihc.tasks.base import StainTask, StainTaskError


class Part(NamedTuple):
    """One part of a loss."""

    weight: float
    value: Tensor
    """()."""


@contextmanager
def frozen(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, the networks' weights get no gradient; what passes through them does."""
    for network in networks:
        network.requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(requires_grad=True)


class AdversarialTask(StainTask):
    """A task with two optimisers: of what makes images, and of what judges them.

    Both losses are taken of the same images, the judges' on detached ones, and go backward together. That is
    the step of the makers followed by that of the judges on what was made before it. As every weight then
    gets its gradient in one pass, it runs under plain DDP, and a step counts once.

    Args:
        discriminator_learning_rate: of the judges; null is that of the makers.
        noise_rotation: at most so many degrees either way by which training stains are displaced from their
            H&E; this and the next two are for tests of registration.
        noise_translation: at most this share of the tile, along each axis.
        noise_scale: at most this much larger or smaller.
        options: see `StainTask`.
    """

    def __init__(
        self,
        *,
        discriminator_learning_rate: float | None = None,
        noise_rotation: float = 0.0,
        noise_translation: float = 0.0,
        noise_scale: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.automatic_optimization = False
        self.discriminator_learning_rate = discriminator_learning_rate
        self.noise = {"rotation": noise_rotation, "translation": noise_translation, "scale": noise_scale}

    # --- what a subclass says -------------------------------------------------------------------------------

    def makers(self) -> list[nn.Module]:
        """Networks of the first optimiser."""
        raise NotImplementedError

    def judges(self) -> list[nn.Module]:
        """Networks of the second."""
        raise NotImplementedError

    def maker_losses(self, he: Tensor, ihc: Tensor, batch: StainBatch) -> tuple[dict[str, Part], Any]:
        """Losses of the makers, the judges being frozen, and what was made, for `judge_losses`."""
        raise NotImplementedError

    def judge_losses(self, made: Any, he: Tensor, ihc: Tensor) -> dict[str, Part]:
        """Losses of the judges, on what was made and detached."""
        raise NotImplementedError

    # --- training -------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the networks.

        Raises:
            StainTaskError: fp16, whose scale of gradients two optimisers cannot share.
        """
        precision = str(self.trainer.precision)
        if "16" in precision and not precision.startswith("bf16"):
            raise StainTaskError(
                f"trainer.precision {precision}; adversarial tasks train in 32-true or bf16-mixed"
            )
        super().configure_model()

    def on_fit_start(self) -> None:
        """Silences Lightning's advice to save weights from before the step; those after it are meant."""
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam for either side; both schedules by step."""
        makers, judges = self.adam(*self.makers()), self.adam(*self.judges())
        if self.discriminator_learning_rate is not None:
            for group in judges.param_groups:
                group["lr"] = self.discriminator_learning_rate
        optimizers = [makers, judges]
        schedules: list[Any] = [
            {"scheduler": self.scheduler(each), "interval": "step"} for each in optimizers
        ]
        return optimizers, schedules

    def training_step(self, batch: StainBatch, batch_idx: int) -> None:
        """One step of either side."""
        he, ihc = to_unit(batch.he), to_unit(batch.ihc)
        if any(self.noise.values()):
            generator = torch.Generator().manual_seed(self.step_seed(batch_idx, purpose=1))
            ihc = random_affine(ihc, generator, **self.noise)
        with frozen(self.judges()):
            maker_parts, made = self.maker_losses(he, ihc, batch)
        judge_parts = self.judge_losses(made, he, ihc)
        maker, judge = total(maker_parts), total(judge_parts)
        parts = {name: part.value.detach() for name, part in (maker_parts | judge_parts).items()}
        parts |= {"generator": maker.detach(), "discriminator": judge.detach()}
        self.watch.add(self.global_step, self.current_epoch, parts)
        self._step(maker + judge)
        self.log_dict({f"train/{name}": value for name, value in parts.items()})

    def _step(self, loss: Tensor) -> None:
        both = self.optimizers()
        assert isinstance(both, list)  # those of `configure_optimizers`
        first, second = both
        for optimizer in (first, second):
            optimizer.zero_grad()
        self.manual_backward(loss)
        if self.gradient_clip is not None:
            for networks in (self.makers(), self.judges()):
                weights = [p for network in networks for p in network.parameters()]
                nn.utils.clip_grad_norm_(weights, self.gradient_clip)
        first.step()
        # By the strategy, as Lightning's own wrapper does it, but not counted: `global_step` and
        # `trainer.max_steps` count batches.
        self.trainer.strategy.optimizer_step(second.optimizer, closure=_nothing)
        schedulers = self.lr_schedulers()
        assert isinstance(schedulers, list)
        for scheduler in schedulers:
            assert isinstance(scheduler, LambdaLR)
            scheduler.step()
        self.update_average()


def total(parts: dict[str, Part]) -> Tensor:
    """The weighted sum of a loss's parts."""
    first, *others = (part.weight * part.value for part in parts.values())
    return sum(others, start=first)


def _nothing() -> None:
    """A closure without work: the gradients are there."""
