"""Several systems as one, by the ranks of their risks."""

from collections.abc import Sequence

from past_core.errors import PastError
from past_surv.data.cohort import Cohort
from past_surv.data.splits import Fold
from past_surv.systems.base import FoldPrediction, Predicting, SurvivalSystem, rank_sum


class CombinedError(PastError, ValueError):
    """Systems that cannot be joined."""


class CombinedSystem(Predicting):
    """The mean rank of every part's risk among the scored patients; no weight is learned.

    Ranks depend on who else is scored in the fold, though never on anybody's outcome, and have no survival
    curves.

    Args:
        systems: at least two.
        name: of the whole; by default the parts' names.

    Raises:
        CombinedError: fewer than two systems.
    """

    def __init__(self, systems: Sequence[SurvivalSystem], *, name: str | None = None) -> None:
        if len(systems) < 2:
            raise CombinedError(f"{len(systems)} systems to be joined; expected at least two")
        self.systems = tuple(systems)
        self.name = name or " + ".join(system.name for system in systems)

    def predict(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> FoldPrediction:
        """Every part learns from the training rows; their ranks among the scored rows are averaged."""
        parts = {system.name: system.predict(cohort, fold, seed=seed) for system in self.systems}
        return FoldPrediction(
            risk=rank_sum(*(part.risk for part in parts.values())),
            info={"joined": "mean rank among the scored patients"}
            | {name: part.info for name, part in parts.items()},
        )
