"""The loss of a diffusion with learned variances: squared error of the noise, and the variational bound."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr

from past_vihc.models.diffusion.schedule import NoiseSchedule

HALF_BIN = 1 / 255
"""Half the distance of two of the 256 levels in [-1, 1]."""


class HybridLoss(NamedTuple):
    """L_hybrid with its two parts."""

    loss: Tensor
    """Scalar: mean over the batch of `mse + weight · T · vlb`."""
    mse: Tensor
    """`(B,)` squared error of the noise; 1 for a network that always answers 0."""
    vlb: Tensor
    """`(B,)` term t of the variational bound, bits per dimension."""


def normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(other_mean, exp(other_log_variance))) of each element, in nats."""
    ratio = log_variance - other_log_variance
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return 0.5 * (torch.exp(ratio) - 1 - ratio + distance)


def discretised_normal_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability, in nats, that a normal falls into the bin of each 8-bit level.

    A level owns 1/255 on either side; the first and the last own the tails, so that all 256 add up to 1. The
    difference of the two distribution functions is taken between logarithms on the side where they are small:
    it stays finite, and has a gradient, far out in the tails, where the plain difference is 0.

    Args:
        x: levels in [-1, 1], `2 k/255 − 1`.
        mean: of the normal, broadcast against `x`.
        log_scale: logarithm of its standard deviation.

    Source: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), equation 13.
    """
    centred, inverse = x - mean, torch.exp(-log_scale)
    lower, upper = (centred - HALF_BIN) * inverse, (centred + HALF_BIN) * inverse
    mirrored = centred > 0
    near = log_ndtr(torch.where(mirrored, -lower, upper))
    far = log_ndtr(torch.where(mirrored, -upper, lower))
    inner = near + torch.log(-torch.expm1((far - near).clamp_max(-1e-6)))
    outer = torch.where(x < 0, log_ndtr(upper), log_ndtr(-lower))
    return torch.where(x.abs() > 1 - HALF_BIN, outer, inner)


def bits_per_dimension(nats: Tensor) -> Tensor:
    """`(B, ...)` nats of each element to `(B,)` mean bits."""
    return nats.flatten(1).mean(dim=1) / math.log(2)


def variational_term(
    schedule: NoiseSchedule, noise: Tensor, values: Tensor, x0: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    """Term t of the variational bound, in bits per dimension.

    At t > 0 it is KL(q(x_(t−1) | x_t, x0) ‖ p(x_(t−1) | x_t)), at t = 0 −log p(x0 | x_1) of the 8-bit levels.

    Args:
        schedule: of the diffusion.
        noise: `(B, C, H, W)` predicted noise, from which p has its mean.
        values: `(B, C, H, W)` from which p has its variance (`NoiseSchedule.learned_log_variance`).
        x0: `(B, C, H, W)` clean image in [-1, 1], at 8-bit levels.
        x_t: `(B, C, H, W)` noisy image.
        t: `(B,)` int64 steps.

    Returns:
        `(B,)`.

    Source: Nichol & Dhariwal (2021), equations 4 to 6.
    """
    truth = schedule.posterior_mean(x0, x_t, t)
    mean = schedule.posterior_mean(schedule.predicted_x0(x_t, t, noise), x_t, t)
    log_variance = schedule.learned_log_variance(values, t)
    kl = normal_kl(truth, schedule.posterior_log_variance(t), mean, log_variance)
    likelihood = discretised_normal_log_likelihood(x0, mean, 0.5 * log_variance)
    first = (t == 0)[:, None, None, None]
    return bits_per_dimension(torch.where(first, -likelihood, kl))


def hybrid_loss(
    schedule: NoiseSchedule,
    output: Tensor,
    *,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    noise: Tensor,
    weight: float = 1e-3,
) -> HybridLoss:
    """L_hybrid = L_simple + λ L_vlb, where the bound trains the variances and never the mean.

    L_vlb is a sum over T steps, of which one is drawn: its term counts T-fold. With λ = 0.001 this is the
    published code's "rescaled MSE", vlb · T/1000.

    Args:
        schedule: of the diffusion.
        output: `(B, 2C, H, W)` of the network: the noise, then the values of the variances.
        x0: `(B, C, H, W)` clean image in [-1, 1].
        x_t: `(B, C, H, W)` noisy image.
        t: `(B,)` int64 steps.
        noise: `(B, C, H, W)` the noise that was added.
        weight: λ.

    Source: Nichol & Dhariwal (2021), equations 14 to 16.
    """
    predicted, values = output.float().chunk(2, dim=1)
    mse = (predicted - noise).square().flatten(1).mean(dim=1)
    vlb = variational_term(schedule, predicted.detach(), values, x0, x_t, t)
    return HybridLoss((mse + weight * len(schedule) * vlb).mean(), mse, vlb)
