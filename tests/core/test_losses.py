"""The contrastive loss against numpy, its gradient, and how each of its variants collapses or does not."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from past_core.losses import ContrastiveLoss, LossError, contrastive_loss, similarity_targets

KINDS = ["similarity", "identity", "annealed", "published"]


def unit(n, dim=5, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pair(n, dim=5, seed=0):
    return (torch.from_numpy(unit(n, dim, seed + i)) for i in range(2))


def softmax(x):
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def reference(image, cell, tau, kind, alpha):
    """Written out row by row, as the paper's sums are."""
    n = len(image)
    targets = softmax((cell @ cell.T + image @ image.T) / (2 * tau))
    if kind == "identity":
        targets = np.eye(n)
    elif kind == "annealed":
        targets = (1 - alpha) * targets + alpha * np.eye(n)
    logits = cell @ image.T / tau
    cells, images = np.log(softmax(logits)), np.log(softmax(logits.T))
    total = 0.0
    for i in range(n):
        for j in range(n):
            total -= targets[i, j] * cells[i, j] / n / 2
            total -= (targets[j, i] if kind == "published" else targets[i, j]) * images[i, j] / n / 2
    entropy = -sum(t * math.log(t) for t in targets.ravel() if t > 0) / n
    return total, entropy, np.diag(targets).mean()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 12),
    st.integers(0, 1000),
    st.floats(0.01, 1),
    st.sampled_from(KINDS),
    st.floats(0, 1),
)
def test_equals_numpy(n, seed, tau, kind, alpha):
    image, cell = unit(n, seed=seed), unit(n, seed=seed + 1)
    weight = alpha if kind == "annealed" else 0.0
    result = contrastive_loss(
        torch.from_numpy(image), torch.from_numpy(cell), tau, targets=kind, identity_weight=weight
    )
    loss, entropy, diagonal = reference(image, cell, tau, kind, weight)
    assert result.loss.item() == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert result.target_entropy.item() == pytest.approx(entropy, rel=1e-9, abs=1e-12)
    assert result.target_diagonal.item() == pytest.approx(diagonal, rel=1e-9)
    assert result.excess.item() == pytest.approx(loss - entropy, rel=1e-6, abs=1e-9)
    cosines = image @ image.T
    assert result.image_cosine.item() == pytest.approx((cosines.sum() - n) / n / (n - 1), abs=1e-12)


def test_published_formula_differs_where_targets_are_not_symmetric():
    image, cell = pair(8)
    ours = contrastive_loss(image, cell, 0.5).loss
    published = contrastive_loss(image, cell, 0.5, targets="published").loss
    assert abs(ours - published) > 1e-3
    columns = similarity_targets(image, cell, 0.5).sum(0)
    assert (columns - 1).abs().max() > 0.05  # rows of the transposed targets do not sum to one


def test_annealed_runs_from_identity_to_similarity():
    image, cell = pair(8)
    losses = {
        weight: contrastive_loss(image, cell, 0.07, targets="annealed", identity_weight=weight).loss
        for weight in (0.0, 1.0)
    }
    torch.testing.assert_close(losses[0.0], contrastive_loss(image, cell, 0.07).loss)
    torch.testing.assert_close(losses[1.0], contrastive_loss(image, cell, 0.07, targets="identity").loss)


def test_identity_targets_are_infonce():
    image, cell = pair(9)
    logits = cell @ image.T / 0.1
    labels = torch.arange(9)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(contrastive_loss(image, cell, 0.1, targets="identity").loss, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_by_finite_differences(kind):
    image, cell = (x.requires_grad_() for x in pair(6))
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    weight = 0.4 if kind == "annealed" else 0.0

    def loss(image, cell, tau):
        return contrastive_loss(image, cell, tau, targets=kind, identity_weight=weight).loss

    assert torch.autograd.gradcheck(loss, (image, cell, tau))


def test_only_the_loss_carries_a_gradient():
    image, cell = (x.requires_grad_() for x in pair(6))
    result = contrastive_loss(image, cell, 0.07)
    assert [name for name in ContrastiveLoss._fields if getattr(result, name).requires_grad] == ["loss"]
    assert not result.excess.requires_grad


@pytest.mark.parametrize("kind", ["similarity", "identity", "annealed", "published"])
def test_a_constant_map_costs_ln_batch_and_has_no_excess(kind):
    point = F.normalize(torch.ones(1, 5, dtype=torch.float64)).expand(16, 5)
    result = contrastive_loss(point, point, 0.07, targets=kind)
    assert result.loss.item() == pytest.approx(math.log(16))
    assert result.image_cosine.item() == pytest.approx(1)
    if kind in ("similarity", "published"):
        assert result.excess.item() == pytest.approx(0, abs=1e-12)
        assert result.target_diagonal.item() == pytest.approx(1 / 16)


def train(loss_of, *, steps=250, n=64):
    """Two small networks that see the same points, with noise of their own, and start nearly at one point."""
    torch.manual_seed(0)
    points = torch.randn(n, 6)
    views = [points @ torch.randn(6, 12) + 2 * torch.randn(n, 12) for _ in range(2)]
    nets = [nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(2)]
    with torch.no_grad():
        for net in nets:
            net[-1].bias += 4.0
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], lr=3e-3)

    def embed():
        return [F.normalize(net(view), dim=1) for net, view in zip(nets, views, strict=True)]

    assert contrastive_loss(*embed(), 0.07).image_cosine > 0.97
    for _ in range(steps):
        loss = loss_of(*embed())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return contrastive_loss(*embed(), 0.07)


def detached_loss(image, cell):
    targets = similarity_targets(image, cell, 0.07).detach()
    logits = cell @ image.T / 0.07
    sides = [-(targets * F.log_softmax(side, 1)).sum(1).mean() for side in (logits, logits.T)]
    return sum(sides) / 2


def test_with_the_gradient_through_the_targets_training_leaves_the_point():
    result = train(lambda image, cell: contrastive_loss(image, cell, 0.07).loss)
    assert max(result.image_cosine, result.cell_cosine) < 0.1
    assert result.loss < 0.2 * math.log(64)


def test_with_detached_targets_training_collapses_at_excess_zero():
    """Why the gradient must flow: with constant targets any constant map is a minimum."""
    result = train(detached_loss)
    assert min(result.image_cosine, result.cell_cosine) > 0.98
    assert abs(result.excess) < 0.01
    assert result.loss > 0.98 * math.log(64)


def test_collapse_is_a_minimum_only_for_detached_targets():
    """Spread a collapsed batch a little, partners together: the loss falls; with targets held it rises."""
    point = torch.nn.functional.normalize(torch.ones(1, 5, dtype=torch.float64))
    spread = F.normalize(point + 0.05 * torch.from_numpy(unit(16)), dim=1)
    held = similarity_targets(point.expand(16, 5), point.expand(16, 5), 0.07)
    assert contrastive_loss(spread, spread, 0.07).loss < math.log(16) - 1e-5
    fixed = -(held * F.log_softmax(spread @ spread.T / 0.07, 1)).sum(1).mean()
    assert fixed > math.log(16) + 1e-5


def test_printed_logits_without_temperature_are_degenerate():
    """The paper prints the logits undivided. Cosines lie within 2 of one another, so that a partner
    gets at most e² times a stranger's share: the loss of a perfect map stays within 1 of ln B, the constant
    map's, and it barely matters whether a cell's partner or a stranger is nearest.
    """
    n, tau = 256, 0.07
    perfect = torch.eye(n, dtype=torch.float64)
    targets = similarity_targets(perfect, perfect, tau)
    share = (perfect @ perfect.T).softmax(1)
    printed = -(targets * share.log()).sum(1).mean()
    assert share.diagonal().max() < 0.011
    assert math.log(n) - 1 < printed < math.log(n)
    assert contrastive_loss(perfect, perfect, tau).loss < 0.01 * math.log(n)
    # No map at all can come below this floor.
    assert printed > math.log(1 + (n - 1) * math.exp(-2)) > 0.6 * math.log(n)


def test_autocast_does_not_round_the_loss():
    image, cell = (x.float() for x in pair(64))
    expected = contrastive_loss(image, cell, 0.01).loss
    with torch.autocast("cpu", torch.bfloat16):
        result = contrastive_loss(image, cell, torch.tensor(0.01))
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result.loss, expected, rtol=1e-6, atol=0)
    half = contrastive_loss(image.bfloat16(), cell.bfloat16(), 0.07)
    assert all(value.dtype == torch.float32 for value in half)


def test_wrong_arguments_are_refused():
    image, cell = pair(4)
    with pytest.raises(LossError, match=r"image embeddings \(4, 5\) and cell embeddings \(3, 5\)"):
        contrastive_loss(image, cell[:3], 0.07)
    with pytest.raises(LossError, match="at least two cells"):
        contrastive_loss(image[:1], cell[:1], 0.07)
    with pytest.raises(LossError, match="targets='soft' is not known"):
        contrastive_loss(image, cell, 0.07, targets="soft")
    with pytest.raises(LossError, match=r"identity_weight 0\.5"):
        contrastive_loss(image, cell, 0.07, identity_weight=0.5)
    with pytest.raises(LossError, match=r"identity_weight 1\.5 must lie in \[0, 1\]"):
        contrastive_loss(image, cell, 0.07, targets="annealed", identity_weight=1.5)
