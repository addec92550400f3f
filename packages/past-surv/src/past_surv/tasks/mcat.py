"""MCAT in training: groups of genes that attend to the patches of slides."""

from typing import Any

from torch import nn

from past_core.training.attached import built
from past_surv.data.batches import SurvivalBatch
from past_surv.data.fold_data import FoldData
from past_surv.models.mcat import MCAT, Fusion, McatOutput
from past_surv.tasks.base import SurvivalTask, SurvivalTaskError


class McatTask(SurvivalTask):
    """Trains MCAT (Chen et al. 2021); with `data.multi`, PAST-multi, whose last group is a patient's vector.

    A patient without slides or without any group of genes is learned from by the other side alone.

    Args:
        fusion: how slide and genes are joined: `concat`, or `bilinear`.
        width: of all tokens; 256 is the published.
        options: see `SurvivalTask`.
    """

    kind = "mcat"

    def __init__(self, *, fusion: Fusion = "concat", width: int = 256, **options: Any) -> None:
        super().__init__(**options)
        self.fusion, self.width = fusion, width

    def build_network(self, data: FoldData) -> nn.Module:
        """MCAT for the fold's groups and patches."""
        lacks = [
            what
            for what, there in (
                ("bags of patches (data.bags)", data.patch_dim),
                ("groups of genes (data.groups)", data.group_sizes),
            )
            if not there
        ]
        if lacks or data.patch_dim is None:
            raise SurvivalTaskError(f"{data.cohort.name}: MCAT needs {' and '.join(lacks)}; none were given")
        return MCAT(
            data.group_sizes,
            patch_dim=data.patch_dim,
            intervals=len(data.intervals),
            fusion=self.fusion,
            width=self.width,
        )

    def network_options(self) -> dict[str, Any]:
        """Fusion and width."""
        return {"fusion": self.fusion, "width": self.width}

    def hazards(self, batch: SurvivalBatch) -> McatOutput:
        """Runs MCAT."""
        return built(self.network)(
            batch.patches,
            batch.omics,
            padding=batch.padding,
            missing=batch.missing,
            no_slide=batch.no_slide,
        )
