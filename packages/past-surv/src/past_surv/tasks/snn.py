"""The self-normalising network in training: genes alone."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from past_core.training.attached import built
from past_surv.data.batches import SurvivalBatch
from past_surv.data.fold_data import FoldData
from past_surv.losses import risk_of, survival_of
from past_surv.models.snn import SNN
from past_surv.tasks.base import SurvivalTask, SurvivalTaskError


class SnnOutput(NamedTuple):
    """What the network says of B patients; the fields mean what MCAT's do."""

    hazards: Tensor
    survival: Tensor
    risk: Tensor


class SnnTask(SurvivalTask):
    """Trains an SNN on the genes of all groups, each gene once; patients without any are left out.

    Args:
        width: of both hidden layers.
        options: see `SurvivalTask`.
    """

    kind = "snn"
    first: Tensor

    def __init__(self, *, width: int = 256, **options: Any) -> None:
        super().__init__(**options)
        self.width = width

    def build_network(self, data: FoldData) -> nn.Module:
        """An SNN for the fold's genes."""
        if not data.group_sizes:
            raise SurvivalTaskError(
                f"{data.cohort.name}: the SNN needs groups of genes (data.groups); none were given"
            )
        first = first_columns(data)
        self.register_buffer("first", torch.tensor(first), persistent=False)
        return SNN(len(first), intervals=len(data.intervals), width=self.width)

    def network_options(self) -> dict[str, Any]:
        """The width."""
        return {"width": self.width}

    def readable(self, batch: SurvivalBatch) -> Tensor:
        """Patients with any group of genes."""
        return ~batch.missing.all(dim=1)

    def hazards(self, batch: SurvivalBatch) -> SnnOutput:
        """Runs the network."""
        hazards = built(self.network)(torch.cat(batch.omics, dim=1)[:, self.first])
        return SnnOutput(hazards, survival_of(hazards), risk_of(hazards))


def first_columns(data: FoldData) -> list[int]:
    """Where, in all groups side by side, each column stands first: groups overlap."""
    columns = [name for scaling in data.scalings for name in map(str, scaling.mean.index)]
    return np.sort(np.unique(columns, return_index=True)[1]).tolist()
