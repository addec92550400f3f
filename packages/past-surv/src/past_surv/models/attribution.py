"""Integrated gradients: which genes raise or lower the risk that a network gives a patient."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from past_surv.losses import risk_of
from past_surv.models.files import LoadedModel
from past_surv.models.inputs import GeneInputs, ModelInputError, first_columns

logger = logging.getLogger(__name__)

STEPS, MOST_STEPS = 32, 1024
TOLERANCE = 1e-3
"""Largest gap, as a share of the difference of risks, that is left as it is."""
FLOATS = 2**25
"""Numbers of patches that are held at a time over the points of a path."""

Risk = Callable[[Sequence[Tensor]], Tensor]
"""From G tensors `(S, g)` to `(S,)` risks."""


class Attribution(NamedTuple):
    """How the inputs of one patient make up the difference between its risk and the baseline's.

    Attributes:
        parts: G tensors `(g,)` float64, on the CPU.
        risk: of the patient.
        baseline: risk of the baseline.
        gap: `risk - baseline` less the sum of all parts: what the integration missed.
        steps: points of the path that were taken.
    """

    parts: tuple[Tensor, ...]
    risk: float
    baseline: float
    gap: float
    steps: int


def integrated_gradients(
    risk: Risk,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor] | None = None,
    *,
    steps: int = STEPS,
    most_steps: int = MOST_STEPS,
    tolerance: float = TOLERANCE,
    chunk: int = STEPS,
) -> Attribution:
    """Integrates the gradient along the straight line from a baseline (Sundararajan, Taly & Yan 2017).

    `(x − x′) ∫ ∂risk/∂x (x′ + a(x − x′)) da`, by Gauss-Legendre quadrature. The parts sum to
    `risk(x) − risk(x′)`; where they miss it by more than `tolerance` of it, the points are doubled.

    Args:
        risk: a function without dropout.
        inputs: G tensors `(g,)`.
        baselines: G tensors `(g,)`; zeros without, which after scaling are the average training patient.
        steps: points of the path at first.
        most_steps: points at which the doubling ends; the gap is then what it is.
        tolerance: see above.
        chunk: points that are run at a time.
    """
    baselines = [torch.zeros_like(x) for x in inputs] if baselines is None else baselines
    with torch.no_grad():
        ends = [float(risk([x[None] for x in end])[0]) for end in (inputs, baselines)]
    difference = ends[0] - ends[1]
    while True:
        values = _quadrature(risk, inputs, baselines, steps, chunk)
        gap = difference - float(sum(v.sum() for v in values))
        # Below the rounding of single precision no number of points helps.
        floor = 1e-6 * max(1.0, abs(ends[0]), abs(ends[1]))
        if abs(gap) <= max(tolerance * abs(difference), floor) or 2 * steps > most_steps:
            return Attribution(tuple(values), ends[0], ends[1], gap, steps)
        steps *= 2


def _quadrature(
    risk: Risk, inputs: Sequence[Tensor], baselines: Sequence[Tensor], steps: int, chunk: int
) -> list[Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    totals = [torch.zeros(x.shape, dtype=torch.float64) for x in inputs]
    for start in range(0, steps, chunk):
        part = slice(start, start + chunk)
        dtype, device = inputs[0].dtype, inputs[0].device
        along = torch.tensor((nodes[part] + 1) / 2, dtype=dtype, device=device)[:, None]
        weight = torch.tensor(weights[part] / 2, dtype=torch.float64)[:, None]
        points = [(x0 + along * (x - x0)).requires_grad_() for x, x0 in zip(inputs, baselines, strict=True)]
        with torch.enable_grad():
            gradients = torch.autograd.grad(risk(points).sum(), points)
        for total, gradient in zip(totals, gradients, strict=True):
            total += (weight * gradient.cpu().double()).sum(dim=0)
    return [total * (x - x0).cpu().double() for total, x, x0 in zip(totals, inputs, baselines, strict=True)]


def attribute_genes(
    loaded: LoadedModel,
    genes: GeneInputs,
    row: int,
    patches: np.ndarray | None = None,
    *,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
    device: str | torch.device = "cpu",
) -> Attribution:
    """The attribution of one patient's risk to its genes, the slides held as they are.

    The baseline is the average training patient with the same slides and the same missing groups. Missing
    groups are at the baseline, so that theirs are 0. Of the SNN, a gene of several groups counts in its
    first.

    Args:
        loaded: MCAT or the SNN.
        genes: of the patients.
        row: which of them.
        patches: `(M, D)` of all slides, for MCAT; None where the patient has none.
        steps: see `integrated_gradients`.
        tolerance: likewise.
        device: where it runs.

    Raises:
        ModelInputError: a network without genes, other patches, a patient with neither, or a risk that is not
            finite.
    """
    kind = loaded.manifest["kind"]
    if kind not in ("mcat", "snn"):
        raise ModelInputError(f"a network of kind {kind} reads no genes; expected mcat or snn")
    model = loaded.model.to(device).eval()
    missing = genes.missing[row]
    if missing.all():
        raise ModelInputError("the patient has no value of any group; there is nothing to attribute")
    chunk = STEPS
    if kind == "mcat":
        dim = loaded.manifest["patch_dim"]
        if patches is not None and (patches.ndim != 2 or not len(patches) or patches.shape[1] != dim):
            raise ModelInputError(f"patches of shape {patches.shape}; the network reads (M, {dim})")
        given = np.zeros((1, dim), np.float32) if patches is None else patches
        bag = torch.from_numpy(np.ascontiguousarray(given, np.float32))[None].to(device)
        chunk = max(1, min(STEPS, FLOATS // bag.numel()))
        risk = _mcat_risk(model, bag, missing.to(device), no_slide=patches is None)
    else:
        risk = _snn_risk(model, torch.tensor(first_columns(genes.columns), device=device))
    inputs = [values[row].to(device) for values in genes.omics]
    found = integrated_gradients(risk, inputs, steps=steps, tolerance=tolerance, chunk=chunk)
    if not np.isfinite([found.risk, found.baseline, found.gap]).all():
        raise ModelInputError("the risk or its gradient is not finite; look at the genes and patches")
    return found


def _mcat_risk(model: nn.Module, bag: Tensor, missing: Tensor, *, no_slide: bool) -> Risk:
    def risk(omics: Sequence[Tensor]) -> Tensor:
        n = len(omics[0])
        without = torch.full((n,), no_slide, device=bag.device)
        return model(bag.expand(n, -1, -1), omics, missing=missing.expand(n, -1), no_slide=without).risk

    return risk


def _snn_risk(model: nn.Module, first: Tensor) -> Risk:
    return lambda omics: risk_of(model(torch.cat(list(omics), dim=1)[:, first]))
