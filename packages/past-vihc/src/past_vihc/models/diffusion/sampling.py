"""From noise to an image: ancestral sampling over fewer steps, or DDIM."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from past_core.errors import PastError
from past_vihc.models.diffusion.noise import Place, place_noise
from past_vihc.models.diffusion.schedule import NoiseSchedule

Network = Callable[..., Tensor]


class RespacingError(PastError, ValueError):
    """Steps of sampling that a schedule does not have."""


@dataclass(frozen=True)
class Respacing:
    """Which of the T steps sampling visits.

    Attributes:
        timesteps: ascending.
        ddim: deterministic sampling (DDIM, η = 0); else ancestral with the learned variances.
    """

    timesteps: tuple[int, ...]
    ddim: bool

    @classmethod
    def parse(cls, text: str, steps: int) -> "Respacing":
        """Reads the published code's notation for one section.

        Args:
            text: `N`: N steps evenly from the first to the last; `ddimN`: every (T/N)-th from the first.
            steps: T.

        Raises:
            RespacingError: neither, or an N that T cannot be divided into.
        """
        found = re.fullmatch(r"(ddim)?(\d+)", text.strip())
        count = int(found[2]) if found else 0
        if found is None or not 1 <= count <= steps:
            raise RespacingError(
                f"timestep_respacing {text!r}; expected a number from 1 to {steps}, as '25', or 'ddim25'"
            )
        if not found[1]:
            return cls(tuple(int(t) for t in np.linspace(0, steps - 1, count).round()), ddim=False)
        if steps % count:
            divisors = (n for n in range(1, steps + 1) if steps % n == 0)
            near = min(divisors, key=lambda n: (abs(n - count), n))
            raise RespacingError(
                f"timestep_respacing {text!r}: {steps} steps are no multiple of {count}; the nearest is "
                f"ddim{near}"
            )
        return cls(tuple(range(0, steps, steps // count)), ddim=True)

    @property
    def method(self) -> str:
        """`ddim`, or nothing for ancestral sampling, as it stands before the number."""
        return "ddim" if self.ddim else ""

    def __str__(self) -> str:
        return f"{len(self.timesteps)} {'DDIM' if self.ddim else 'ancestral'} steps"


def guided(
    network: Network,
    x: Tensor,
    t: Tensor,
    he: Tensor,
    embedding: Tensor | None,
    stain: Tensor | None,
    guidance: float,
) -> tuple[Tensor, Tensor]:
    """Noise and variance values, with classifier-free guidance where `guidance` is not 1.

    The noise is ε(∅) + w (ε(c) − ε(∅)); the variance is the conditional one.
    """
    noise, values = network(x, t, he, embedding, stain).float().chunk(2, dim=1)
    if guidance != 1:
        nothing = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        plain = network(x, t, he, embedding, stain, keep=nothing).float()[:, : x.shape[1]]
        noise = plain + guidance * (noise - plain)
    return noise, values


def sample(
    network: Network,
    schedule: NoiseSchedule,
    he: Tensor,
    *,
    respacing: Respacing,
    places: Sequence[Place],
    embedding: Tensor | None = None,
    stain: Tensor | None = None,
    guidance: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Draws one stain for each H&E.

    All noise belongs to the windows' places (`place_noise`): the same place gives the same image, whatever
    else is in the batch. Predicted clean images are cut to [-1, 1] at every step, as in the published code.

    Args:
        network: as `ConditionedUNet`.
        schedule: that the network was trained with.
        he: `(B, 3, H, W)` in [-1, 1].
        respacing: which steps are visited.
        places: the B windows.
        embedding: `(B, d)` or `(B, d, g, g)`.
        stain: `(B,)` int64.
        guidance: w; 1 is none and needs one pass a step, others two, and a network that was trained for it.
        seed: of the noise.

    Returns:
        `(B, 3, H, W)` float32 in [-1, 1].

    Source: Nichol & Dhariwal (2021), section 4; Song et al., "Denoising Diffusion Implicit Models" (2021),
    equation 12.
    """
    size = tuple(he.shape[-2:])

    def noise(draw: int) -> Tensor:
        return place_noise(places, *size, seed=seed, draw=draw).to(he.device)

    def predict(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        steps = torch.full((len(x),), t, device=x.device)
        return guided(network, x, steps, he, embedding, stain, guidance)

    walk = _ddim if respacing.ddim else _ancestral
    with torch.no_grad():
        return walk(predict, schedule, respacing.timesteps, noise).clamp(-1, 1)


def _ancestral(
    predict: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    noise: Callable[[int], Tensor],
) -> Tensor:
    # Not diffusers' DDPMScheduler: it draws its noise itself. A test compares the two.
    spaced = schedule.respaced(np.asarray(timesteps))
    x = noise(0)
    for number in reversed(range(len(timesteps))):
        at = torch.full((len(x),), number, device=x.device)
        predicted, values = predict(x, timesteps[number])
        x0 = spaced.predicted_x0(x, at, predicted).clamp(-1, 1)
        mean = spaced.posterior_mean(x0, x, at)
        if number == 0:
            return mean
        x = mean + torch.exp(0.5 * spaced.learned_log_variance(values, at)) * noise(len(timesteps) - number)
    raise AssertionError  # a respacing has a step


def _ddim(
    predict: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    noise: Callable[[int], Tensor],
) -> Tensor:
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(  # its types hide what its mixin registers
        num_train_timesteps=len(schedule), trained_betas=schedule.betas.tolist(), timestep_spacing="leading"
    )
    scheduler.set_timesteps(len(timesteps))
    x = noise(0)
    for t in scheduler.timesteps.tolist():
        predicted, _ = predict(x, t)
        # The published code derives the noise again from the clean image that was cut.
        x = scheduler.step(predicted, t, x, use_clipped_model_output=True).prev_sample
    return x
