"""MCAT and its losses against the original's figures; batches of ragged bags against one at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from torch import Tensor

from past_surv.losses import cox_partial_likelihood, nll_survival
from past_surv.models.mcat import MCAT, McatError

SIZES = [7, 9, 11, 13, 15, 17]


def waves(index: int, name: str, tensor: Tensor) -> Tensor:
    """The golden file's weights, by formula."""
    values = np.sin(0.7310 * np.arange(tensor.numel()) + 1.37 * index + 0.25)
    if tensor.ndim >= 2:
        values *= 1.7 / np.sqrt(tensor.shape[-1])
    elif name.endswith(("norm1.weight", "norm2.weight")):
        values = 1 + 0.1 * values
    else:
        values *= 0.1
    return torch.tensor(values.reshape(tensor.shape))


def groups(sizes: list[int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [
        torch.tensor(np.cos(0.31 * np.arange(size) + number), dtype=dtype)[None]
        for number, size in enumerate(sizes)
    ]


def test_the_originals_forward_pass(shared_data: Path) -> None:
    with np.load(shared_data / "tcga" / "golden" / "mcat_forward_concat.npz") as file:
        golden = dict(file)
    network = MCAT(SIZES).double().eval()
    state = network.state_dict()
    network.load_state_dict({name: waves(i, name, t) for i, (name, t) in enumerate(state.items())})
    patches = torch.tensor(np.cos(0.0137 * np.arange(23 * 1024)).reshape(1, 23, 1024))
    with torch.no_grad():
        output = network(patches, groups(SIZES))
    for ours, theirs in (
        (output.hazards, "hazards"),
        (output.survival, "S"),
        (output.attention[None], "A_coattn"),
        (output.path_pooling, "A_path"),
        (output.omic_pooling, "A_omic"),
    ):
        np.testing.assert_allclose(ours.numpy(), golden[theirs], atol=1e-10)
    np.testing.assert_allclose(output.risk.numpy(), -golden["S"].sum(axis=1), atol=1e-10)


def test_names_shapes_and_number_of_weights(shared_data: Path) -> None:
    lines = (shared_data / "tcga" / "golden" / "mcat_state_dict_keys_concat.txt").read_text().splitlines()
    sizes = [100, 200, 300, 400, 500, 600]
    concat, bilinear = MCAT(sizes), MCAT(sizes, fusion="bilinear")
    assert [f"{name}\t{tuple(t.shape)}" for name, t in concat.state_dict().items()] == lines
    assert sum(p.numel() for p in concat.parameters()) == 4_161_286
    assert sum(p.numel() for p in bilinear.parameters()) == 4_360_390
    assert len(bilinear.state_dict()) == 112


def test_the_originals_loss(shared_data: Path) -> None:
    golden = json.loads((shared_data / "tcga" / "golden" / "nll_golden.json").read_text())
    hazards = torch.tensor(golden["hazards"], dtype=torch.float64)
    interval, censored = torch.tensor(golden["Y"]), torch.tensor(golden["c"])
    for alpha, value in golden["nll"].items():
        assert float(nll_survival(hazards, interval, censored, alpha=float(alpha))) == pytest.approx(
            value, abs=1e-12
        )


def test_co_attention_is_torchs() -> None:
    network = MCAT([4, 5], patch_dim=12, width=16).eval()
    reference = torch.nn.MultiheadAttention(16, 1, batch_first=True)
    reference.load_state_dict(network.coattn.state_dict())
    query, bag = torch.randn(3, 2, 16), torch.randn(3, 9, 16)
    padding = torch.zeros(3, 9, dtype=torch.bool)
    padding[1, 4:] = True
    out, logits = network.coattn(query, bag, padding)
    expected, weights = reference(query, bag, bag, key_padding_mask=padding)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(logits.softmax(-1), weights)


@pytest.mark.parametrize("fusion", ["concat", "bilinear"])
def test_a_batch_of_ragged_bags_is_each_patient_alone(fusion: str) -> None:
    torch.manual_seed(0)
    network = MCAT([4, 6, 5], patch_dim=20, fusion=fusion, width=32).double().eval()
    lengths, genes = [3, 11, 7], [torch.randn(3, n, dtype=torch.float64) for n in (4, 6, 5)]
    bags = [torch.randn(1, n, 20, dtype=torch.float64) for n in lengths]
    lacks = torch.tensor([[False, True, False], [False] * 3, [True, False, True]])
    patches, padding = torch.full((3, 11, 20), 7.0, dtype=torch.float64), torch.ones(3, 11, dtype=torch.bool)
    for row, bag in enumerate(bags):
        patches[row, : bag.shape[1]], padding[row, : bag.shape[1]] = bag[0], False
    together = network(patches, genes, padding=padding, missing=lacks)
    for row, bag in enumerate(bags):
        omics = [g[row : row + 1].clone() for g in genes]
        alone = network(bag, omics, missing=lacks[row : row + 1])
        torch.testing.assert_close(together.hazards[row], alone.hazards[0], atol=1e-12, rtol=0)
        for number in lacks[row].nonzero()[:, 0]:  # what is missing has no say
            omics[number] += 100
        again = network(bag, omics, missing=lacks[row : row + 1])
        torch.testing.assert_close(again.hazards[0], alone.hazards[0], atol=1e-12, rtol=0)
    assert together.attention[0, 0, 3:].isneginf().all()


def test_inputs_that_do_not_fit_are_named() -> None:
    network = MCAT([4, 6], patch_dim=20, width=16).eval()
    omics = [torch.zeros(2, 4), torch.zeros(2, 6)]
    with pytest.raises(McatError, match=r"groups of \[6, 4\]"):
        network(torch.zeros(2, 3, 20), omics[::-1])
    with pytest.raises(McatError, match=r"expected \(B, M, 20\)"):
        network(torch.zeros(2, 3, 21), omics)
    with pytest.raises(McatError, match="number 1 of the batch has no patch"):
        network(torch.zeros(2, 3, 20), omics, padding=torch.tensor([[False] * 3, [True] * 3]))
    with pytest.raises(McatError, match="number 0 of the batch has no group"):
        network(torch.zeros(2, 3, 20), omics, missing=torch.tensor([[True] * 2, [False] * 2]))
    with pytest.raises(McatError, match="fusion 'sum'"):
        MCAT([3], fusion="sum")
    with pytest.raises(McatError, match="none empty"):
        MCAT([3, 0])


def test_coxs_likelihood_is_least_where_a_library_finds_it() -> None:
    stream = np.random.default_rng(0)
    covariates = stream.normal(size=(60, 2))
    time = np.ceil(stream.exponential(np.exp(-covariates @ [0.8, -0.5])) * 20)
    event = stream.random(60) < 0.7
    fitted = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-12).fit(covariates, Surv.from_arrays(event, time))
    beta = torch.tensor(fitted.coef_, requires_grad=True)
    loss = cox_partial_likelihood(torch.tensor(covariates) @ beta, torch.tensor(time), torch.tensor(event))
    (gradient,) = torch.autograd.grad(loss, beta)
    assert gradient.abs().max() < 1e-6
    assert float(cox_partial_likelihood(beta.detach(), torch.ones(2), torch.zeros(2))) == 0.0
