"""Augmentation keeps the cell centred and follows its generator; the learning rate follows its formula."""

import math

import pytest
import torch

from past_core.augment import Augmentation, augment, dihedral
from past_core.training.optimisation import learning_rate_at


def patches(n: int = 8, side: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, side, side), generator=generator, dtype=torch.uint8)


def test_the_eight_symmetries_differ_and_keep_the_centre() -> None:
    image = patches(1)
    turned = dihedral(image.expand(8, -1, -1, -1), torch.arange(8))
    assert torch.equal(turned[0], image[0])
    assert len({tuple(each.flatten().tolist()) for each in turned}) == 8
    assert all(torch.equal(each[:, 2, 2], image[0, :, 2, 2]) for each in turned)
    assert all(torch.equal(each.flatten().sort().values, image.flatten().sort().values) for each in turned)


def test_each_image_gets_its_own_symmetry() -> None:
    images, elements = patches(), torch.tensor([3, 0, 5, 5, 1, 7, 2, 4])
    batch = dihedral(images, elements)
    for image, element, result in zip(images, elements, batch, strict=True):
        assert torch.equal(dihedral(image[None], element[None])[0], result)


def test_augmentation_is_a_function_of_its_generator() -> None:
    images = patches()
    first, again, other = (
        augment(images, Augmentation(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 255


def test_switched_off_it_changes_nothing() -> None:
    off = Augmentation(dihedral=False, gain_sigma=0.0, channel_sigma=0.0)
    assert torch.equal(augment(patches(), off, torch.Generator()), patches())


def test_learning_rate_warms_up_linearly_then_falls_as_a_cosine() -> None:
    def rate(step: int) -> float:
        return learning_rate_at(step, warmup=10, total=110, start=1e-6, peak=1e-3, final=1e-5)

    assert rate(0) == 1e-6
    assert rate(5) == pytest.approx((1e-6 + 1e-3) / 2)
    assert rate(10) == 1e-3
    assert rate(60) == pytest.approx((1e-3 + 1e-5) / 2)
    assert rate(35) == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(110) == pytest.approx(1e-5)
    assert rate(500) == pytest.approx(1e-5)
