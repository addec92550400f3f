"""Noise schedules: how fast an image is turned into noise, and Gaussians that follow from it."""

import numpy as np
import torch
from torch import Tensor, nn

from past_core.errors import PastError


class ScheduleError(PastError, ValueError):
    """Betas or numbers of steps that make no diffusion."""


def cosine_betas(steps: int, *, offset: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """Betas of the cosine schedule.

    Source: Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (2021), equation 17:
    ᾱ(t) = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s) · π/2), β_t = 1 − ᾱ(t)/ᾱ(t−1).

    Args:
        steps: T.
        offset: s, which keeps the first betas from being too small.
        largest: betas are cut here, so that the end is no singularity.

    Returns:
        `(T,)` float64.

    Raises:
        ScheduleError: fewer than 2 steps.
    """
    if steps < 2:
        raise ScheduleError(f"{steps} diffusion steps; expected at least 2")
    time = np.arange(steps + 1) / steps
    kept = np.cos((time + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], largest)


class NoiseSchedule(nn.Module):
    """What follows from the betas of T steps, counted from 0.

    Computed in float64 and kept as float32 buffers, which no checkpoint holds. `x0` is the clean image, `x_t`
    the image after step t, both `(B, C, H, W)`; `t` is `(B,)` int64.

    Args:
        betas: `(T,)` variances of the noise added by each step, above 0 and at most 1.

    Raises:
        ScheduleError: anything else.
    """

    _kept: Tensor

    def __init__(self, betas: np.ndarray) -> None:
        super().__init__()
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or len(betas) < 1 or not ((betas > 0) & (betas <= 1)).all():
            raise ScheduleError(f"betas of shape {betas.shape}; expected one row of numbers in (0, 1]")
        kept = np.cumprod(1 - betas)
        before = np.append(1.0, kept[:-1])
        variance = betas * (1 - before) / (1 - kept)
        # The first step's posterior has variance 0; its logarithm is the second's, as in the published code,
        # so that the learned variance of the last denoising step has an end to interpolate to.
        tiny = variance[1] if len(betas) > 1 else betas[0]
        values = {
            "kept": kept,  # ᾱ
            "signal": np.sqrt(kept),
            "noise": np.sqrt(1 - kept),
            "inverse_signal": np.sqrt(1 / kept),
            "inverse_noise": np.sqrt(1 / kept - 1),
            "mean_x0": betas * np.sqrt(before) / (1 - kept),
            "mean_xt": (1 - before) * np.sqrt(1 - betas) / (1 - kept),
            "log_smallest": np.log(np.append(tiny, variance[1:])),
            "log_largest": np.log(betas),
        }
        self.betas = betas
        for name, value in values.items():
            self.register_buffer(f"_{name}", torch.from_numpy(value).float(), persistent=False)

    def __len__(self) -> int:
        return len(self.betas)

    def _at(self, name: str, t: Tensor) -> Tensor:
        return getattr(self, f"_{name}")[t][:, None, None, None]

    def respaced(self, timesteps: np.ndarray) -> "NoiseSchedule":
        """The schedule that visits only these steps (ascending): its ᾱ are theirs.

        Source: Nichol & Dhariwal (2021), section 4, equation 19.
        """
        kept = np.cumprod(1 - self.betas)[timesteps]
        return NoiseSchedule(1 - kept / np.append(1.0, kept[:-1])).to(self._kept.device)

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A draw of q(x_t | x0), given standard normal `noise`."""
        return self._at("signal", t) * x0 + self._at("noise", t) * noise

    def predicted_x0(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The clean image that, with this noise, gives `x_t`."""
        return self._at("inverse_signal", t) * x_t - self._at("inverse_noise", t) * noise

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_(t−1) | x_t, x0), equation 11 of Nichol & Dhariwal."""
        return self._at("mean_x0", t) * x0 + self._at("mean_xt", t) * x_t

    def posterior_log_variance(self, t: Tensor) -> Tensor:
        """Logarithm of its variance β̃, `(B, 1, 1, 1)`; of the second step at t = 0, where β̃ is 0."""
        return self._at("log_smallest", t)

    def learned_log_variance(self, values: Tensor, t: Tensor) -> Tensor:
        """Log variance of p(x_(t−1) | x_t): v log β + (1 − v) log β̃ with v = (values + 1)/2, equation 15."""
        share = (values + 1) / 2
        return share * self._at("log_largest", t) + (1 - share) * self._at("log_smallest", t)
