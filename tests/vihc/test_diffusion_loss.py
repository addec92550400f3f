"""The variational bound against closed forms and scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from past_vihc.models.diffusion.loss import (
    bits_per_dimension,
    discretised_normal_log_likelihood,
    hybrid_loss,
    normal_kl,
    variational_term,
)
from past_vihc.models.diffusion.schedule import NoiseSchedule, cosine_betas

MEANS, LOGS = st.floats(-2, 2), st.floats(-3, 2)


@given(MEANS, LOGS, MEANS, LOGS)
@settings(max_examples=20, deadline=None)
def test_kl_is_the_integral(mean: float, log: float, other: float, other_log: float) -> None:
    p, q = stats.norm(mean, np.exp(log / 2)), stats.norm(other, np.exp(other_log / 2))
    ends = mean - 10 * p.std(), mean + 10 * p.std()
    expected, _ = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), *ends)
    got = normal_kl(*(torch.tensor(v, dtype=torch.float64) for v in (mean, log, other, other_log)))
    assert got.item() == pytest.approx(expected, abs=1e-6, rel=1e-6)


@given(st.floats(-1.5, 1.5), st.floats(-6, 1))
@settings(max_examples=60, deadline=None)
def test_likelihoods_of_all_levels_sum_to_one(mean: float, log_scale: float) -> None:
    levels = torch.arange(256) / 127.5 - 1
    got = discretised_normal_log_likelihood(levels, torch.tensor(mean), torch.tensor(log_scale))
    assert got.double().exp().sum().item() == pytest.approx(1, abs=2e-4)
    assert (got <= 0).all()


@given(st.integers(0, 255), st.floats(-1, 1), st.floats(-4, 0.5))
@settings(max_examples=100, deadline=None)
def test_likelihood_equals_scipys(level: int, mean: float, log_scale: float) -> None:
    x = level / 127.5 - 1
    lower = -np.inf if level == 0 else x - 1 / 255
    upper = np.inf if level == 255 else x + 1 / 255
    q = stats.norm(mean, np.exp(log_scale))
    # On the side where the distribution function is small, for the other has no digits left.
    expected = q.sf(lower) - q.sf(upper) if x > mean else q.cdf(upper) - q.cdf(lower)
    got = discretised_normal_log_likelihood(
        *(torch.tensor(v, dtype=torch.float64) for v in (x, mean, log_scale))
    )
    if expected > 1e-280:
        assert got.item() == pytest.approx(np.log(expected), rel=1e-6, abs=1e-6)
    else:
        assert got.item() < np.log(1e-279)


def test_likelihood_far_out_has_value_and_gradient() -> None:
    mean = torch.tensor([1.0, -1.0, 0.5, 0.0], requires_grad=True)
    log_scale = torch.full((4,), -7.0, requires_grad=True)
    got = discretised_normal_log_likelihood(torch.tensor([-1.0, 1.0, -0.502, 0.0039]), mean, log_scale)
    got.sum().backward()
    assert torch.isfinite(got).all()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(log_scale.grad).all()
    assert mean.grad[0] < 0 < mean.grad[1]  # towards the level
    assert (log_scale.grad[:3] > 0).all()  # wider would be likelier


def test_bits() -> None:
    nats = torch.full((2, 3, 4, 4), np.log(2.0))
    nats[1] *= 3
    torch.testing.assert_close(bits_per_dimension(nats), torch.tensor([1.0, 3.0]))


def _drawn(schedule: NoiseSchedule, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0 = torch.randint(0, 256, (len(t), 3, 8, 8), generator=generator) / 127.5 - 1
    noise = torch.randn(x0.shape, generator=generator)
    return x0, noise, schedule.add_noise(x0, t, noise)


def test_terms_of_the_bound_against_scipy() -> None:
    schedule, t = NoiseSchedule(cosine_betas(50)), torch.tensor([0, 1, 20, 45])
    x0, noise, x_t = _drawn(schedule, t)
    predicted, values = noise + 0.3, torch.full_like(noise, 0.2)
    got = variational_term(schedule, predicted, values, x0, x_t, t)
    for row, number in enumerate(t.tolist()):
        kept, beta = np.cumprod(1 - schedule.betas), schedule.betas[number]
        before = kept[number - 1] if number else 1.0
        clean = x0[row].double().numpy()
        guess = (
            x_t[row].double().numpy() - np.sqrt(1 - kept[number]) * predicted[row].double().numpy()
        ) / np.sqrt(kept[number])

        def mean(x: np.ndarray, row=row, beta=beta, before=before, kept=kept[number]) -> np.ndarray:
            a = beta * np.sqrt(before) / (1 - kept)
            return a * x + (1 - before) * np.sqrt(1 - beta) / (1 - kept) * x_t[row].double().numpy()

        smallest = (
            schedule.betas[max(number, 1)] * (1 - kept[max(number, 1) - 1]) / (1 - kept[max(number, 1)])
        )
        log = 0.6 * np.log(beta) + 0.4 * np.log(smallest)
        if number == 0:
            q = stats.norm(mean(guess), np.exp(log / 2))
            upper = np.where(clean > 0.999, 1.0, q.cdf(clean + 1 / 255))
            nats = -np.log(upper - np.where(clean < -0.999, 0.0, q.cdf(clean - 1 / 255)))
        else:
            distance = (mean(clean) - mean(guess)) ** 2
            nats = 0.5 * (log - np.log(smallest) + (smallest + distance) / np.exp(log) - 1)
        assert got[row].item() == pytest.approx(nats.mean() / np.log(2), rel=1e-3), number


def test_perfect_prediction_costs_nothing() -> None:
    schedule, t = NoiseSchedule(cosine_betas(50)), torch.tensor([1, 10, 30])
    x0, noise, x_t = _drawn(schedule, t)
    output = torch.cat([noise, torch.full_like(noise, -1.0)], dim=1)
    loss = hybrid_loss(schedule, output, x0=x0, x_t=x_t, t=t, noise=noise)
    torch.testing.assert_close(loss.mse, torch.zeros(3))
    assert loss.vlb.abs().max() < 1e-4


def test_bound_trains_the_variance_alone() -> None:
    """Without the squared error's part, the gradient on the noise is that of the squared error exactly."""
    schedule, t = NoiseSchedule(cosine_betas(50)), torch.tensor([0, 1, 20, 49])
    x0, noise, x_t = _drawn(schedule, t)
    output = torch.zeros(4, 6, 8, 8, requires_grad=True)
    loss = hybrid_loss(schedule, output, x0=x0, x_t=x_t, t=t, noise=noise, weight=0.5)
    loss.loss.backward()
    torch.testing.assert_close(output.grad[:, :3], -2 * noise / noise.numel())
    assert (output.grad[:, 3:] != 0).any()
    expected = loss.mse.mean() + 0.5 * 50 * loss.vlb.mean()
    torch.testing.assert_close(loss.loss, expected)


def test_published_rescaling() -> None:
    """With λ = 0.001 the weight of a term is T/1000."""
    schedule, t = NoiseSchedule(cosine_betas(500)), torch.tensor([100, 200])
    x0, noise, x_t = _drawn(schedule, t)
    loss = hybrid_loss(schedule, torch.zeros(2, 6, 8, 8), x0=x0, x_t=x_t, t=t, noise=noise)
    torch.testing.assert_close(loss.loss, (loss.mse + 0.5 * loss.vlb).mean())
