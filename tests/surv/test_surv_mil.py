"""Attention MIL, and MCAT where a patient lacks slides or genes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from past_surv.losses import hazards_of, risk_of, survival_of
from past_surv.models.mcat import MCAT, McatError
from past_surv.models.mil import AttentionMIL


def ragged(lengths: list[int], dim: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    bags = [torch.randn(n, dim, dtype=torch.float64) for n in lengths]
    patches = torch.full((len(bags), max(lengths), dim), 9.0, dtype=torch.float64)
    padding = torch.ones(len(bags), max(lengths), dtype=torch.bool)
    for row, bag in enumerate(bags):
        patches[row, : len(bag)], padding[row, : len(bag)] = bag, False
    return patches, padding, bags


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_batch_of_ragged_bags_is_each_bag_alone(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    network = AttentionMIL(7, intervals=3, width=8).double().eval()
    patches, padding, bags = ragged(lengths, 7)
    together = network(patches, padding=padding)
    for row, bag in enumerate(bags):
        alone = network(bag[None])
        torch.testing.assert_close(together.hazards[row], alone.hazards[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(
            together.attention[row, 0, : len(bag)], alone.attention[0, 0], atol=1e-12, rtol=0
        )
    assert together.attention.masked_select(padding[:, None]).isneginf().all()
    assert torch.equal(together.survival, survival_of(together.hazards))
    assert torch.equal(together.risk, risk_of(together.hazards))


def test_the_order_of_patches_does_not_matter_but_their_values_do() -> None:
    torch.manual_seed(1)
    network = AttentionMIL(7, width=8).double().eval()
    bag = torch.randn(1, 30, 7, dtype=torch.float64)
    risk = network(bag).risk
    torch.testing.assert_close(network(bag[:, torch.randperm(30)]).risk, risk, atol=1e-12, rtol=0)
    assert (network(bag + 1).risk - risk).abs() > 1e-6
    # The pooled vector is the mean by the attention that is returned.
    out = network(bag)
    pooled = out.attention.softmax(-1) @ network.wsi_net(bag)
    expected = hazards_of(network.classifier(network.rho(pooled[:, 0])))
    torch.testing.assert_close(out.hazards, expected)


def test_bags_that_do_not_fit() -> None:
    network = AttentionMIL(7, width=8)
    with pytest.raises(McatError, match=r"expected \(B, M, 7\)"):
        network(torch.zeros(2, 3, 8))
    with pytest.raises(McatError, match="number 1 of the batch has no patch"):
        network(torch.zeros(2, 3, 7), padding=torch.tensor([[False] * 3, [True] * 3]))


def test_hazards_in_half_precision_keep_their_survival() -> None:
    logits = torch.tensor([[-9.0, -7.0]])
    half = hazards_of(logits.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(survival_of(half), survival_of(hazards_of(logits)))
    assert hazards_of(logits.double()).dtype == torch.float64


def test_a_side_that_is_lacking_says_nothing() -> None:
    torch.manual_seed(0)
    network = MCAT([4, 5], patch_dim=6, width=16).double().eval()
    patches, padding, _ = ragged([3, 5, 4], 6)
    omics = [torch.randn(3, n, dtype=torch.float64) for n in (4, 5)]
    missing = torch.tensor([[False, False], [True, True], [False, True]])
    no_slide = torch.tensor([True, False, False])
    out = network(patches, omics, padding=padding, missing=missing, no_slide=no_slide)
    assert out.hazards.isfinite().all()

    other = patches.clone()
    other[0] = 50 * torch.randn_like(other[0])
    again = network(other, omics, padding=padding, missing=missing, no_slide=no_slide)
    torch.testing.assert_close(again.hazards, out.hazards)  # no slide: its patches have no say
    other[1] += 1
    again = network(other, omics, padding=padding, missing=missing, no_slide=no_slide)
    assert not torch.allclose(again.hazards[1], out.hazards[1])  # no genes: the slide still has

    # Whoever lacks nothing as a whole is as without the masks.
    plain = network(patches[2:], [x[2:] for x in omics], padding=padding[2:], missing=missing[2:])
    torch.testing.assert_close(out.hazards[2], plain.hazards[0], atol=1e-12, rtol=0)
    with pytest.raises(McatError, match="number 0 of the batch has no group"):
        network(patches, omics, missing=torch.ones(3, 2, dtype=torch.bool), no_slide=no_slide)
