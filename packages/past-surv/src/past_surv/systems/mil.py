"""Attention MIL as a system."""

from typing import TYPE_CHECKING, Any

from past_surv.systems.trained import TrainedSystem, Training

if TYPE_CHECKING:
    from past_surv.data.bags import BagFolder
    from past_surv.tasks.base import SurvivalTask


class MilSystem(TrainedSystem):
    """Gated attention over the patches of a patient's slides, without genes.

    Args:
        bags: patches of the slides.
        width: of all hidden layers.
        training: see `Training`.
    """

    def __init__(self, bags: "BagFolder", *, width: int = 256, **training: Any) -> None:
        super().__init__(groups=None, bags=bags, training=Training(**training))
        self.width = width
        self.name = "attention MIL"

    def task(self) -> "SurvivalTask":
        """A new network."""
        from past_surv.tasks.mil import MilTask

        return MilTask(width=self.width, **self.training.of_task())
