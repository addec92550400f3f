"""Pearson's r by gene while predictions stream past: a torchmetrics metric of fixed, small state."""

from typing import Any

import numpy as np
import torch
from torchmetrics import Metric

from past_core.errors import PastError
from past_genex.metrics._kernel import batch_moments, merge_two
from past_genex.metrics.pairs import PairMoments

GENES_AT_A_TIME = 1024
"""Columns that are made float64 at a time where there is no compiled kernel (accelerators)."""


class StreamingError(PastError, ValueError):
    """Predictions and truths that do not fit each other, or values that are not finite."""


class PearsonByGene(Metric):
    """Pearson's r of every gene over all cells seen, on all ranks.

    The state is six float64 numbers a gene (`PairMoments`) whatever the number of cells. Batches, slides and
    ranks are merged by the exact update of Chan, Golub & LeVeque (1983), not by averaging r. The rules of
    `PairMoments.r` hold: NaN where the truth is constant or never measured, 0 where only the prediction is
    constant.

    Args:
        genes: G.
        kwargs: see `torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    moments: torch.Tensor

    def __init__(self, genes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if genes < 1:
            raise StreamingError(f"{genes} genes; expected at least one")
        self.genes = genes
        # One tensor, so that the reduction sees counts, means and co-moments together.
        self.add_state("moments", torch.zeros(6, genes, dtype=torch.float64), dist_reduce_fx=merge_states)

    def update(self, predictions: torch.Tensor, truth: torch.Tensor) -> None:
        """Takes the predictions and truths of n cells.

        Args:
            predictions: `(n, G)`, any floating type and device.
            truth: `(n, G)`; NaN where a gene is not measured (a whole column, or single cells of it): left
                out, whatever is predicted there.

        Raises:
            StreamingError: another shape, or a prediction that is not finite where the truth is measured, or
                an infinite truth; the state stays as it was.
        """
        if predictions.shape != truth.shape or predictions.ndim != 2 or predictions.shape[1] != self.genes:
            raise StreamingError(
                f"predictions of shape {tuple(predictions.shape)} and truth of {tuple(truth.shape)}; "
                f"expected both (cells, {self.genes})"
            )
        if not len(predictions):
            return
        predictions, truth = predictions.detach(), truth.detach()
        with torch.autocast(self.moments.device.type, enabled=False):
            if {predictions.device.type, truth.device.type, self.moments.device.type} == {"cpu"}:
                values, bad = batch_moments(_array(predictions), _array(truth))
                _refuse(bad)
                self.moments = torch.from_numpy(merge_two(self.moments.numpy(), values))
            else:
                batch, bad = _batch_moments(predictions, truth)
                _refuse(bad)
                self.moments = merge_states(torch.stack([self.moments, batch.to(self.moments.device)]))

    def compute(self) -> torch.Tensor:
        """`(G,)` float64 r by gene, over all ranks."""
        return torch.from_numpy(_pairs(self.moments).r).to(self.moments.device)

    @property
    def pairs(self) -> PairMoments:
        """Moments of what this process has seen (of all ranks inside `sync_context`)."""
        return _pairs(self.moments)


def merge_states(states: torch.Tensor) -> torch.Tensor:
    """Moments of k disjoint sets of cells as those of their union.

    Args:
        states: `(k, 6, G)` float64: n, means of predictions and truths, pp, tt, pt.

    Returns:
        `(6, G)`.
    """
    n, mean, sums = states[:, 0], states[:, 1:3], states[:, 3:]
    total = n.sum(0)
    # Weights rather than sums of values: a set of all cells but none elsewhere keeps its mean to the bit.
    share = n / total.clamp_min(1.0)
    merged = (share[:, None] * mean).sum(0)
    delta = torch.where(n[:, None] > 0, mean - merged, 0.0)
    products = torch.stack([delta[:, 0] ** 2, delta[:, 1] ** 2, delta[:, 0] * delta[:, 1]], dim=1)
    return torch.cat([total[None], merged, (sums + n[:, None] * products).sum(0)])


def _refuse(gene: int) -> None:
    if gene >= 0:
        raise StreamingError(
            f"gene {gene} (column) has a prediction that is not finite where the truth is measured, or an "
            "infinite truth; NaN truth alone means not measured"
        )


def _pairs(moments: torch.Tensor) -> PairMoments:
    return PairMoments(*moments.detach().cpu().numpy().copy())


def _array(values: torch.Tensor) -> np.ndarray:
    """As NumPy, without a copy for contiguous float32 and float64; the half types become float32."""
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    return values.contiguous().numpy()


def _batch_moments(predictions: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The same as `batch_moments` in torch, for any device: two passes in blocks of genes."""
    parts = []
    for start in range(0, predictions.shape[1], GENES_AT_A_TIME):
        columns = slice(start, start + GENES_AT_A_TIME)
        t = truth[:, columns].to(torch.float64)
        measured = ~torch.isnan(t)
        t = torch.where(measured, t, 0.0)
        p = torch.where(measured, predictions[:, columns].to(t.device, torch.float64), 0.0)
        n = measured.sum(0).to(torch.float64)
        mean_p, mean_t = p.sum(0) / n.clamp_min(1.0), t.sum(0) / n.clamp_min(1.0)
        p, t = torch.where(measured, p - mean_p, 0.0), torch.where(measured, t - mean_t, 0.0)
        parts.append(torch.stack([n, mean_p, mean_t, (p * p).sum(0), (t * t).sum(0), (p * t).sum(0)]))
    out = torch.cat(parts, dim=1)
    bad = torch.nonzero(~torch.isfinite(out).all(dim=0))
    return out, int(bad[0]) if len(bad) else -1
