"""MCAT and PAST-multi as systems."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from past_surv.models.mcat import Fusion
from past_surv.systems.trained import TrainedSystem, Training

if TYPE_CHECKING:
    import pandas as pd

    from past_surv.data.bags import BagFolder
    from past_surv.tasks.base import SurvivalTask


class McatSystem(TrainedSystem):
    """MCAT on a cohort's groups of genes and bags of patches; with `vectors`, PAST-multi.

    PAST-multi's vector of a patient becomes a further group beside those of genes (PAST, Methods); where the
    cohort has no genes, it is the only one.

    Args:
        groups: symbols of genes by group.
        bags: patches of the slides.
        vectors: one a patient, by case id; patients may lack it.
        fusion: how slide and genes are joined: `concat`, or `bilinear`.
        width: of all tokens.
        training: see `Training`.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]] | None,
        bags: "BagFolder",
        vectors: "pd.DataFrame | None" = None,
        *,
        fusion: Fusion = "concat",
        width: int = 256,
        **training: Any,
    ) -> None:
        super().__init__(groups=groups, bags=bags, vectors=vectors, training=Training(**training))
        self.fusion, self.width = fusion, width
        self.name = "MCAT" if vectors is None else "PAST-multi"

    def task(self) -> "SurvivalTask":
        """A new MCAT."""
        from past_surv.tasks.mcat import McatTask

        return McatTask(fusion=self.fusion, width=self.width, **self.training.of_task())
