"""Stops training when a loss is not finite, without making an accelerator wait at every step."""

from collections.abc import Mapping

import torch
from torch import Tensor

from past_core.training.finite import NonFiniteError


class LossWatch:
    """Keeps the last steps' losses on the device and looks at all of them at once.

    Args:
        interval: steps between two looks. A look waits for the device; in between nothing does.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._steps: list[tuple[int, int, tuple[str, ...], Tensor]] = []

    def add(self, step: int, epoch: int, losses: Mapping[str, Tensor]) -> None:
        """Keeps a step's losses, and looks when it is time.

        Args:
            step: optimiser steps taken before it.
            epoch: its epoch.
            losses: scalars by name.

        Raises:
            NonFiniteError: see `look`.
        """
        values = torch.stack([value.detach().float() for value in losses.values()])
        self._steps.append((step, epoch, tuple(losses), values))
        if len(self._steps) >= self.interval:
            self.look()

    def look(self) -> None:
        """Looks at the kept steps; all are then forgotten.

        Raises:
            NonFiniteError: names the first step and the losses that were NaN or infinite in it.
        """
        steps, self._steps = self._steps, []
        if not steps or bool(torch.isfinite(torch.cat([values for *_, values in steps])).all()):
            return
        for step, epoch, names, values in steps:
            bad = [
                f"{name} {value}"
                for name, value in zip(names, values.tolist(), strict=True)
                if not _finite(value)
            ]
            if bad:
                raise NonFiniteError(
                    f"losses that are not finite at step {step} (epoch {epoch}): {', '.join(bad)}. Nothing "
                    "was saved since; the last checkpoint is from before. Lower model.learning_rate or set "
                    "model.gradient_clip, then go on with --ckpt_path last"
                )


def _finite(value: float) -> bool:
    return value - value == 0
