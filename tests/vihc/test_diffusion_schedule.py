"""The schedule against diffusers and against Bayes' rule."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from past_core.errors import PastError
from past_vihc.models.diffusion.schedule import NoiseSchedule, ScheduleError, cosine_betas


@pytest.mark.parametrize("steps", [2, 25, 1000, 4000])
def test_cosine_betas_equal_diffusers(steps: int) -> None:
    theirs = DDPMScheduler(num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2").betas
    np.testing.assert_allclose(cosine_betas(steps), theirs.numpy(), rtol=1e-5)
    assert cosine_betas(steps).max() == 0.999


@pytest.mark.parametrize("bad", [[0.1, 0.0], [0.1, 1.1], [[0.1]], [], [0.1, np.nan]])
def test_betas_that_make_no_diffusion(bad: list) -> None:
    with pytest.raises(ScheduleError, match="betas"):
        NoiseSchedule(np.array(bad))
    assert issubclass(ScheduleError, PastError)
    with pytest.raises(ScheduleError, match="1 diffusion steps"):
        cosine_betas(1)


def _filled(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value)


@given(st.integers(2, 400), st.data(), st.floats(-1, 1), st.floats(-2, 2))
@settings(max_examples=60, deadline=None)
def test_posterior_is_bayes_rule(steps: int, data: st.DataObject, x0: float, x_t: float) -> None:
    """q(x_(t−1) | x_t, x0) from the product of the two Gaussians it is made of."""
    number = data.draw(st.integers(1, steps - 1))
    betas = cosine_betas(steps)
    kept = np.cumprod(1 - betas)[number - 1]
    precision = (1 - betas[number]) / betas[number] + 1 / (1 - kept)
    mean = (np.sqrt(1 - betas[number]) * x_t / betas[number] + np.sqrt(kept) * x0 / (1 - kept)) / precision
    schedule, t = NoiseSchedule(betas), torch.tensor([number])
    assert schedule.posterior_mean(_filled(x0), _filled(x_t), t).item() == pytest.approx(mean, abs=1e-5)
    assert schedule.posterior_log_variance(t).exp().item() == pytest.approx(1 / precision, rel=1e-4)


def test_posterior_by_simulation() -> None:
    """Of simulated chains that end near one value, the step before has the posterior's mean and variance."""
    schedule, rng, x0, number = NoiseSchedule(cosine_betas(10)), np.random.default_rng(0), 0.4, 5
    x, before = np.full(2_000_000, x0), None
    for beta in schedule.betas[: number + 1]:
        before = x
        x = np.sqrt(1 - beta) * x + np.sqrt(beta) * rng.standard_normal(len(x))
    near = np.abs(x - 0.7) < 0.02
    t = torch.tensor([number])
    assert before[near].mean() == pytest.approx(
        schedule.posterior_mean(_filled(x0), _filled(0.7), t).item(), abs=0.01
    )
    assert before[near].var() == pytest.approx(schedule.posterior_log_variance(t).exp().item(), rel=0.03)


@given(st.integers(2, 1000), st.data())
@settings(max_examples=30, deadline=None)
def test_noise_goes_in_and_out(steps: int, data: st.DataObject) -> None:
    t = torch.tensor([data.draw(st.integers(0, max(0, int(0.9 * steps) - 1)))])
    schedule, generator = NoiseSchedule(cosine_betas(steps)), torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(2))
    x_t = schedule.add_noise(x0, t, noise)
    torch.testing.assert_close(schedule.predicted_x0(x_t, t, noise), x0, atol=1e-4, rtol=1e-3)


def test_learned_variance_lies_between_its_ends() -> None:
    schedule, t = NoiseSchedule(cosine_betas(100)), torch.arange(100)
    low, middle, high = (
        schedule.learned_log_variance(torch.full((100, 1, 1, 1), v), t) for v in (-1.0, 0.0, 1.0)
    )
    torch.testing.assert_close(low, schedule.posterior_log_variance(t))
    np.testing.assert_allclose(high.flatten().exp(), schedule.betas, rtol=1e-5)
    torch.testing.assert_close(middle, (low + high) / 2)
    # β̃_0 is 0: its logarithm is that of the second step.
    assert low[0] == low[1]
    assert torch.isfinite(low).all()


def test_respaced_schedule_has_the_same_marginals() -> None:
    timesteps = np.linspace(0, 999, 25).round().astype(int)
    full = NoiseSchedule(cosine_betas(1000))
    short = full.respaced(timesteps)
    assert len(short) == 25
    np.testing.assert_allclose(np.cumprod(1 - short.betas), np.cumprod(1 - full.betas)[timesteps], rtol=1e-9)
    np.testing.assert_allclose(full.respaced(np.arange(1000)).betas, full.betas, rtol=1e-6)
    assert not full.state_dict()
