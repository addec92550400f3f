"""PSNR and SSIM against scikit-image and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from past_vihc.evaluation.similarity import PSNR_CAP, SimilarityError, psnr, ssim, ssim_paper


def images(
    seed: int, height: int, width: int, noise: float, level: int = 120
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    smooth = level + 60 * np.sin(np.arange(width) / 7) + 30 * np.cos(np.arange(height) / 5)[:, None]
    real = np.clip(smooth + random.normal(0, 20, (3, height, width)), 0, 255)
    fake = np.clip(real + random.normal(0, noise, real.shape), 0, 255)
    return fake.astype(np.uint8), real.astype(np.uint8)


@settings(max_examples=25)
@given(
    st.integers(0, 10**6), st.integers(11, 60), st.integers(11, 60), st.floats(0.5, 80), st.integers(0, 255)
)
def test_equal_to_scikit_image(seed: int, height: int, width: int, noise: float, level: int) -> None:
    fake, real = images(seed, height, width, noise, level)
    expected = structural_similarity(
        real, fake, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255,
        channel_axis=0
    )  # fmt: skip
    assert ssim(fake, real) == pytest.approx(expected, abs=1e-9)
    tensors = torch.from_numpy(fake)[None], torch.from_numpy(real)[None]
    assert ssim(*tensors).item() == pytest.approx(expected, abs=1e-9)
    assert ssim_paper(*tensors).item() == pytest.approx(float(ssim_paper(fake, real)), abs=1e-12)
    if (fake != real).any():
        assert psnr(fake, real) == pytest.approx(peak_signal_noise_ratio(real, fake, data_range=255))
        assert psnr(*tensors).item() == pytest.approx(float(psnr(fake, real)))


def test_equal_to_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    fake, real = (
        torch.from_numpy(np.stack(x)) for x in zip(images(1, 64, 48, 9), images(2, 64, 48, 30), strict=True)
    )
    _, whole = structural_similarity_index_measure(
        fake.double(), real.double(), sigma=1.5, data_range=255.0, reduction="none", return_full_image=True
    )
    # torchmetrics also counts windows that reach over the border, into a reflection; scikit-image does not.
    np.testing.assert_allclose(ssim(fake, real), whole[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-6)


def test_the_papers_formula_by_hand() -> None:
    fake, real = images(5, 20, 30, 25)
    c1, c2 = 6.5025, 58.5225
    values = []
    for x, y in zip(fake.astype(float), real.astype(float), strict=True):
        cov = np.cov(x.ravel(), y.ravel(), bias=True)
        top = (2 * x.mean() * y.mean() + c1) * (2 * cov[0, 1] + c2)
        values.append(top / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
    assert ssim_paper(fake, real) == pytest.approx(np.mean(values), abs=1e-12)


def test_identical_images_are_capped() -> None:
    fake, _ = images(0, 16, 16, 1)
    assert psnr(fake, fake) == PSNR_CAP
    assert ssim(fake, fake) == pytest.approx(1)
    assert ssim_paper(fake, fake) == pytest.approx(1)
    near = np.zeros((3, 128, 128), np.uint8)
    near[0, 0, 0] = 1
    assert 94 < psnr(near, np.zeros_like(near)) < 96
    black, white = np.zeros((3, 16, 16), np.uint8), np.full((3, 16, 16), 255, np.uint8)
    assert psnr(black, white) == 0


@given(st.integers(0, 10**6), st.floats(1, 60))
def test_symmetric_and_worse_with_noise(seed: int, noise: float) -> None:
    fake, real = images(seed, 24, 24, noise)
    for measure in (psnr, ssim, ssim_paper):
        assert measure(fake, real) == pytest.approx(float(measure(real, fake)))
    worse, _ = images(seed, 24, 24, 4 * noise)
    assert psnr(worse, real) < psnr(fake, real)


def test_batches_equal_tiles() -> None:
    pairs = [images(seed, 32, 32, 5 + seed) for seed in range(4)]
    fake, real = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
    for measure in (psnr, ssim, ssim_paper):
        one = [measure(fake[i : i + 1], real[i : i + 1]).item() for i in range(4)]
        np.testing.assert_allclose(measure(fake, real), one, rtol=1e-13)


def test_refuses_what_cannot_be_compared() -> None:
    image = np.zeros((3, 16, 16), np.uint8)
    with pytest.raises(SimilarityError, match="window of 11 px"):
        ssim(image[:, :10], image[:, :10])
    with pytest.raises(SimilarityError, match=r"\(3, 16, 16\) and \(3, 16, 15\)"):
        psnr(image, image[..., :15])
    with pytest.raises(SimilarityError, match="float32 and uint8"):
        psnr(image.astype(np.float32), image)
    with pytest.raises(SimilarityError, match="array, the other a tensor"):
        psnr(torch.from_numpy(image), image)
    with pytest.raises(SimilarityError, match="expected both"):
        ssim_paper(image[:2], image[:2])
