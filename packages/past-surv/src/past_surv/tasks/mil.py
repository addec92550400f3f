"""Attention MIL in training: the patches of slides alone."""

from typing import Any

from torch import Tensor, nn

from past_core.training.attached import built
from past_surv.data.batches import SurvivalBatch
from past_surv.data.fold_data import FoldData
from past_surv.models.mil import AttentionMIL, MilOutput
from past_surv.tasks.base import SurvivalTask, SurvivalTaskError


class MilTask(SurvivalTask):
    """Trains gated attention over patches; patients without slides are neither learned from nor predicted.

    Args:
        width: of all hidden layers.
        options: see `SurvivalTask`.
    """

    kind = "mil"

    def __init__(self, *, width: int = 256, **options: Any) -> None:
        super().__init__(**options)
        self.width = width

    def build_network(self, data: FoldData) -> nn.Module:
        """Attention MIL for the fold's patches."""
        if not data.patch_dim:
            raise SurvivalTaskError(
                f"{data.cohort.name}: attention MIL needs bags of patches (data.bags); none were given"
            )
        return AttentionMIL(data.patch_dim, intervals=len(data.intervals), width=self.width)

    def network_options(self) -> dict[str, Any]:
        """The width."""
        return {"width": self.width}

    def readable(self, batch: SurvivalBatch) -> Tensor:
        """Patients with a slide."""
        return ~batch.no_slide

    def hazards(self, batch: SurvivalBatch) -> MilOutput:
        """Runs the network."""
        return built(self.network)(batch.patches, padding=batch.padding)
