"""Noise by place, and sampling against diffusers and against known answers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from scipy import stats
from torch import Tensor

from past_core.errors import PastError
from past_vihc.models.diffusion.noise import Place, place_noise
from past_vihc.models.diffusion.sampling import Respacing, RespacingError, guided, sample
from past_vihc.models.diffusion.schedule import NoiseSchedule, cosine_betas

SCHEDULE = NoiseSchedule(cosine_betas(100))


def _noise(*places: Place, size: int = 96, seed: int = 0, draw: int = 0) -> Tensor:
    return place_noise(places, size, size, seed=seed, draw=draw)


def test_noise_of_overlapping_windows_agrees() -> None:
    here, there = _noise(Place(3, -40, 100), Place(3, 10, 70))
    torch.testing.assert_close(here[:, 50:, :66], there[:, :46, 30:], rtol=0, atol=0)
    assert here.isfinite().all()
    assert stats.kstest(here.flatten().numpy(), "norm").pvalue > 1e-3


def test_noise_depends_on_everything_that_it_should() -> None:
    same = _noise(Place(3, 0, 0))
    assert torch.equal(same, _noise(Place(7, 5, 5), Place(3))[1:])  # whatever else is in the batch
    others = [
        _noise(Place(4)),
        _noise(Place(3, 96)),
        _noise(Place(3, 0, 96)),
        _noise(Place(3, -96)),
        _noise(Place(3), seed=1),
        _noise(Place(3), draw=1),
    ]
    flat = torch.cat([same, *others]).flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(len(flat))).abs().max() < 0.05


def test_respacing() -> None:
    assert Respacing.parse("ddim4", 100) == Respacing((0, 25, 50, 75), ddim=True)
    assert Respacing.parse("4", 100) == Respacing((0, 33, 66, 99), ddim=False)
    assert len(set(Respacing.parse("25", 1000).timesteps)) == 25
    assert Respacing.parse("100", 100).timesteps == tuple(range(100))


@pytest.mark.parametrize("text", ["0", "ddim", "101", "10,20", "-5", "ddim0", ""])
def test_respacing_that_is_none(text: str) -> None:
    with pytest.raises(RespacingError, match="expected a number from 1 to 100"):
        Respacing.parse(text, 100)
    assert issubclass(RespacingError, PastError)


def test_respacing_that_does_not_divide() -> None:
    with pytest.raises(RespacingError, match="ddim25"):
        Respacing.parse("ddim30", 100)


def _network(x: Tensor, t: Tensor, he: Tensor, *_: object, keep: Tensor | None = None) -> Tensor:
    """Some smooth function of everything."""
    he = he if keep is None else he * keep[:, None, None, None]
    scaled = t[:, None, None, None] / 100
    return torch.cat([torch.tanh(x + he) * (0.5 + scaled), torch.sin(x + scaled)], dim=1)


def _sample(text: str, places: list[Place], he: Tensor, **options: object) -> Tensor:
    return sample(_network, SCHEDULE, he, respacing=Respacing.parse(text, 100), places=places, **options)


HE = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
PLACES = [Place(0), Place(1)]


def test_ancestral_equals_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    """DDPMScheduler with learned_range, given the same draws."""
    scheduler = DDPMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(10)
    assert tuple(scheduler.timesteps.flip(0).tolist()) == Respacing.parse("10", 100).timesteps
    draws = iter(place_noise(PLACES, 8, 8, seed=5, draw=draw) for draw in range(10))
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    monkeypatch.setattr(module, lambda *_, **__: next(draws))
    x = next(draws)
    for t in scheduler.timesteps:
        x = scheduler.step(_network(x, t.expand(2), HE), t, x).prev_sample
    torch.testing.assert_close(_sample("10", PLACES, HE, seed=5), x.clamp(-1, 1), atol=1e-4, rtol=1e-4)


def test_ddim_equals_its_equation() -> None:
    kept = np.cumprod(1 - SCHEDULE.betas)
    x = place_noise(PLACES, 8, 8, seed=5, draw=0).double()
    for t in (90, 80, 70, 60, 50, 40, 30, 20, 10, 0):
        noise = _network(x, torch.full((2,), t), HE)[:, :3]
        x0 = ((x - np.sqrt(1 - kept[t]) * noise) / np.sqrt(kept[t])).clamp(-1, 1)
        noise = (x - np.sqrt(kept[t]) * x0) / np.sqrt(1 - kept[t])
        before = kept[t - 10] if t else 1.0
        x = np.sqrt(before) * x0 + np.sqrt(1 - before) * noise
    torch.testing.assert_close(_sample("ddim10", PLACES, HE, seed=5), x.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("text", ["10", "100", "ddim20", "ddim100"])
def test_samples_of_a_known_distribution(text: str) -> None:
    """A network that knows the truth, pixels N(0.2, 0.1²), samples that distribution."""
    mean, deviation = 0.2, 0.1

    def optimal(x: Tensor, t: Tensor, he: Tensor, *_: object) -> Tensor:
        kept = torch.from_numpy(np.cumprod(1 - SCHEDULE.betas)).float()[t][:, None, None, None]
        variance = kept * deviation**2 + 1 - kept
        return torch.cat(
            [(1 - kept).sqrt() * (x - kept.sqrt() * mean) / variance, torch.zeros_like(x)], dim=1
        )

    he = torch.zeros(1, 3, 64, 64)
    drawn = sample(optimal, SCHEDULE, he, respacing=Respacing.parse(text, 100), places=[Place(0)])
    assert drawn.mean().item() == pytest.approx(mean, abs=0.01)
    # Few steps come out wider or narrower.
    assert drawn.std().item() == pytest.approx(deviation, rel=0.1 if text.endswith("100") else 0.35)


@pytest.mark.parametrize("text", ["10", "ddim10"])
def test_a_place_has_one_image(text: str) -> None:
    first = _sample(text, PLACES, HE)
    alone = _sample(text, PLACES[1:], HE[1:])
    torch.testing.assert_close(first[1:], alone)
    assert torch.equal(first, _sample(text, PLACES, HE))
    for other in (
        _sample(text, [Place(2), Place(3)], HE),
        _sample(text, PLACES, HE, seed=1),
        _sample(text, PLACES, -HE),
    ):
        assert (other - first).abs().mean() > 0.01
    assert first.abs().max() <= 1


def test_guidance() -> None:
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([5, 50])
    plain, _ = _network(x, t, torch.zeros_like(HE)).chunk(2, dim=1)
    full, values = _network(x, t, HE).chunk(2, dim=1)
    for weight, expected in ((0.0, plain), (1.0, full), (3.0, plain + 3 * (full - plain))):
        noise, variance = guided(_network, x, t, HE, None, None, weight)
        torch.testing.assert_close(noise, expected)
        assert torch.equal(variance, values)


def test_ddim_is_diffusers_schedule() -> None:
    scheduler = DDIMScheduler(num_train_timesteps=100, timestep_spacing="leading")
    scheduler.set_timesteps(20)
    assert tuple(scheduler.timesteps.flip(0).tolist()) == Respacing.parse("ddim20", 100).timesteps
