"""Two processes of 16 cells have the loss and the gradients of one process with 32."""

import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from past_core.distributed import GatherError, gather_with_gradient
from past_core.losses import contrastive_loss

pytestmark = pytest.mark.slow  # two processes that import torch

KINDS = ["similarity", "identity", "annealed", "published"]


def networks():
    torch.manual_seed(5)
    model = nn.ModuleDict(
        {"image": nn.Linear(7, 4), "cell": nn.Sequential(nn.Linear(9, 6), nn.GELU(), nn.Linear(6, 4))}
    ).double()
    model.register_parameter("log_temperature", nn.Parameter(torch.tensor(-2.0, dtype=torch.float64)))
    return model


def data():
    random = torch.Generator().manual_seed(6)
    return [torch.randn(32, width, generator=random, dtype=torch.float64) for width in (7, 9)]


def step(model, inputs, kind):
    """Loss and gradients, embeddings gathered where there are several processes."""
    model.zero_grad()
    image, cell = (
        gather_with_gradient(nn.functional.normalize(model[side](x), dim=1))
        for side, x in zip(("image", "cell"), inputs, strict=True)
    )
    weight = 0.3 if kind == "annealed" else 0.0
    result = contrastive_loss(image, cell, model.log_temperature.exp(), targets=kind, identity_weight=weight)
    result.loss.backward()
    return result.loss.detach(), [p.grad.clone() for p in model.parameters()]


def worker(rank, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    model = networks()
    results = {}
    for kind in KINDS:
        loss, gradients = step(model, [x[16 * rank : 16 * rank + 16] for x in data()], kind)
        for gradient in gradients:  # as DDP averages
            dist.all_reduce(gradient)
            gradient /= 2
        results[kind] = (loss, gradients)
    unequal = ""
    try:
        gather_with_gradient(torch.zeros(3 + rank, 2))
    except GatherError as error:
        unequal = str(error)
    order = gather_with_gradient(torch.full((2, 1), float(rank)))
    torch.save({"results": results, "unequal": unequal, "order": order}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(folder,), nprocs=2)
        return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_one_process(ranks, kind):
    model = networks()
    loss, gradients = step(model, data(), kind)
    names = [name for name, _ in model.named_parameters()]
    assert "log_temperature" in names
    for rank in ranks:
        their_loss, their_gradients = rank["results"][kind]
        torch.testing.assert_close(their_loss, loss, rtol=1e-13, atol=0)
        for own, theirs in zip(gradients, their_gradients, strict=True):
            torch.testing.assert_close(theirs, own, rtol=1e-10, atol=1e-14)


def test_rows_come_in_the_order_of_the_ranks(ranks):
    for rank in ranks:
        assert rank["order"].ravel().tolist() == [0, 0, 1, 1]


def test_unequal_batches_are_refused_on_every_rank(ranks):
    for rank in ranks:
        assert "batches of [3, 4] cells" in rank["unequal"]


def test_a_single_process_gets_its_own_tensor():
    x = torch.ones(3, 2, requires_grad=True)
    assert gather_with_gradient(x) is x
