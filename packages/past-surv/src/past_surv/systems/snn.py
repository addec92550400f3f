"""The self-normalising network on genes as a system: a fixed number of epochs, the last one scored."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from past_surv.data.cohort import Cohort
from past_surv.data.learned import Scaling, TimeIntervals
from past_surv.data.splits import Fold
from past_surv.losses import nll_survival, risk_of, survival_of
from past_surv.models.snn import SNN
from past_surv.systems.base import FoldPrediction, Predicting, gene_columns


class GeneSNN(Predicting):
    """An SNN on all given genes, trained on the discrete-time likelihood.

    Args:
        columns: of `Cohort.omics`; null takes those of `groups`.
        groups: symbols by group, whose columns are used, each once; null takes all genes of the cohort.
        epochs: passes over the training fold; none is chosen by a score.
        batch_size: patients a step.
        learning_rate: Adam's.
        weight_decay: L2.
        l1: weight of the sum of absolute weights.
        intervals: of time.
        alpha: additional weight of deaths in the loss.
    """

    def __init__(
        self,
        columns: Sequence[str] | None = None,
        *,
        groups: Mapping[str, Sequence[str]] | None = None,
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-5,
        l1: float = 1e-4,
        intervals: int = 4,
        alpha: float = 0.0,
    ) -> None:
        self.columns, self.groups = columns, groups
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.weight_decay, self.l1 = learning_rate, weight_decay, l1
        self.intervals, self.alpha = intervals, alpha
        self.name = "SNN on genes"

    def predict(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> FoldPrediction:
        """Trains on the training fold and gives minus the summed survival of the scored rows."""
        genes = cohort.omics[gene_columns(cohort, self.columns, self.groups)]
        scaling = Scaling.of(genes.iloc[fold.train])
        x = torch.tensor(scaling(genes.iloc[fold.train]).to_numpy(np.float32))
        time, event = cohort.time[fold.train], cohort.event[fold.train]
        intervals = TimeIntervals.of(time, event, intervals=self.intervals)
        interval = torch.tensor(intervals.of_times(time))
        censored = torch.tensor(~event, dtype=torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = SNN(genes.shape[1], intervals=self.intervals)
            optimizer = torch.optim.Adam(
                network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            # Deaths and intervals are drawn evenly, as published.
            weights = _balanced(interval.numpy() * 2 + event)
            for _ in range(self.epochs):
                order = torch.multinomial(weights, len(x), replacement=True)
                for rows in order.split(self.batch_size):
                    loss = nll_survival(network(x[rows]), interval[rows], censored[rows], alpha=self.alpha)
                    loss = loss + self.l1 * sum(p.abs().sum() for p in network.parameters())
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            network.eval()
            with torch.no_grad():
                hazards = network(torch.tensor(scaling(genes.iloc[fold.test]).to_numpy(np.float32)))
        return FoldPrediction(
            risk=risk_of(hazards).numpy().astype(np.float64),
            survival=survival_of(hazards).numpy().astype(np.float64),
            edges=intervals.edges,
            info={
                "genes": genes.shape[1],
                "parameters": sum(p.numel() for p in network.parameters()),
                "epochs": self.epochs,
            },
        )


def _balanced(classes: np.ndarray) -> torch.Tensor:
    """One over the size of each patient's class."""
    _, index, count = np.unique(classes, return_inverse=True, return_counts=True)
    return torch.tensor(1.0 / count[index])
