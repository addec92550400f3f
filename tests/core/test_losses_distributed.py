"""N processes of B cells have the loss, and every parameter's gradient, of one process with N * B."""

import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from past_core.distributed import (
    GatherError,
    StepMismatchError,
    gather_with_gradient,
    require_same_step,
)
from past_core.losses import contrastive_loss
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.tokens import PAD
from past_core.training.finite import FiniteWatch, NonFiniteError

pytestmark = pytest.mark.slow  # processes that import torch

CELLS, LONGEST, GENES = 32, 19, 40
WORLDS = (2, 4)


@dataclass(frozen=True)
class Case:
    """One way to take a step."""

    targets: str = "similarity"
    microbatch: int | None = None
    activation_checkpointing: bool = False


CASES = {
    "similarity": Case(),
    "identity": Case("identity"),
    "annealed": Case("annealed"),
    "published": Case("published"),
    "microbatch of 3": Case(microbatch=3),
    "microbatch of 3, published": Case("published", microbatch=3),
    "microbatch of 1": Case(microbatch=1),
    "activation checkpointing": Case(activation_checkpointing=True),
    "both": Case(microbatch=5, activation_checkpointing=True),
}


def network() -> DualEncoder:
    torch.manual_seed(5)
    config = DualEncoderConfig(
        image=ImageEncoderConfig(
            name="vit_tiny_patch16_224",
            image_size=32,
            mpp=0.5,
            options={"embed_dim": 16, "depth": 2, "num_heads": 2},
        ),
        cell=CellEncoderConfig(
            vocabulary_size=GENES + 30,
            max_genes=LONGEST - 3,
            width=16,
            depth=2,
            heads=2,
            feedforward=24,
            graph_layers=2,
            graph_heads=2,
            fusion_heads=2,
            embedding_std=1.0,
            dropout=0.0,
        ),
        projection_dim=8,
        projection_dropout=0.0,
    )
    return DualEncoder(config).double()


def batch(rank: int, world: int) -> tuple:
    """The share of one rank: its centres, cut to its own longest; neighbours may be other ranks' centres."""
    random = torch.Generator().manual_seed(6)
    everyone = CELLS + 20
    images = torch.randint(0, 256, (CELLS, 3, 32, 32), generator=random, dtype=torch.uint8)
    lengths = torch.randint(4, LONGEST + 1, (everyone,), generator=random)
    tokens = torch.randint(30, GENES + 30, (everyone, LONGEST), generator=random)
    tokens[torch.arange(LONGEST) >= lengths[:, None]] = PAD
    neighbors = torch.randint(-1, everyone, (CELLS, 4), generator=random)
    distances = torch.rand(CELLS, 4, generator=random) * (neighbors >= 0)
    own = slice(rank * CELLS // world, (rank + 1) * CELLS // world)
    used = torch.cat([torch.arange(CELLS)[own], neighbors[own][neighbors[own] >= 0]]).unique()
    place = torch.full((everyone + 1,), -1)  # the last for absent neighbours
    place[used] = torch.arange(len(used))
    centres = place[torch.arange(CELLS)[own]]
    longest = int(lengths[used].max())
    own_lengths = lengths[used][centres].numpy()
    return (
        images[own],
        tokens[used, :longest],
        centres,
        place[neighbors[own]],
        distances[own].double(),
        own_lengths,
    )


def step(model: torch.nn.Module, inputs: tuple, case: Case, *, gather: bool = True) -> tuple:
    """Loss and gradients by name; embeddings are gathered where there are several processes."""
    inner = getattr(model, "module", model)
    inner.microbatch = case.microbatch
    inner.set_activation_checkpointing(case.activation_checkpointing)
    model.zero_grad()
    output = model(*inputs)
    sides = [gather_with_gradient(side) if gather else side for side in (output.image, output.cell)]
    weight = 0.3 if case.targets == "annealed" else 0.0
    result = contrastive_loss(*sides, output.temperature, targets=case.targets, identity_weight=weight)
    result.loss.backward()
    assert all(p.grad is not None for p in inner.parameters())
    return result.loss.detach(), {name: p.grad.clone() for name, p in inner.named_parameters()}


def refusals(rank: int) -> dict[str, str]:
    """What every rank says about batches and steps that differ."""
    said = {}
    try:
        gather_with_gradient(torch.zeros(3 + rank, 2))
    except GatherError as error:
        said["unequal"] = str(error)
    try:
        require_same_step(7 + rank, torch.device("cpu"))
    except StepMismatchError as error:
        said["steps"] = str(error)
    require_same_step(7, torch.device("cpu"))
    watch = FiniteWatch(interval=2)
    image = torch.zeros(3, 2)
    image[1, 0] = torch.nan if rank == 1 else 0
    rows = torch.arange(3) + 10 * rank
    for number, loss in enumerate((1.0, torch.nan)):
        watch.add(
            number, 0, loss=torch.tensor(loss), image=image, cell=rows[:, None], slides=rows * 0, rows=rows
        )
    try:
        watch.stop_if_not_finite(lambda slide, row: (f"S{slide}", f"cell{row}"))
    except NonFiniteError as error:
        said["finite"] = str(error)
    return said


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank >= world:
            continue
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting{world}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=60),
        )
        # As the recipes wrap it: a parameter without a gradient would be an error at the second step.
        model = DistributedDataParallel(network(), find_unused_parameters=False, gradient_as_bucket_view=True)
        inputs = batch(rank, world)
        results = {name: step(model, inputs, case) for name, case in CASES.items()}
        results["not gathered"] = step(model, inputs, Case(), gather=False)
        order = gather_with_gradient(torch.full((2, 1), float(rank)))
        torch.save(
            {"results": results, "order": order, **refusals(rank)}, f"{folder}/world{world}rank{rank}.pt"
        )
        dist.barrier()
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks() -> dict[int, list[dict]]:
    context = mp.get_context("forkserver")  # one process imports torch, the others are its copies
    context.set_forkserver_preload(["past_core.losses", "past_core.models.dual_encoder"])
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(worker, args=(folder,), nprocs=max(WORLDS), start_method="forkserver")
        return {
            world: [torch.load(Path(folder) / f"world{world}rank{rank}.pt") for rank in range(world)]
            for world in WORLDS
        }


def deviation(own: dict, theirs: dict) -> float:
    """The largest difference of two sets of gradients, each relative to its parameter's largest."""
    assert own.keys() == theirs.keys()
    return max(
        float((theirs[name] - own[name]).abs().max() / own[name].abs().max().clamp_min(1e-12)) for name in own
    )


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_one_process(ranks: dict, name: str, world: int) -> None:
    """Against one process with the whole batch, and neither microbatches nor checkpointing."""
    loss, gradients = step(network(), batch(0, 1), Case(CASES[name].targets))
    assert "log_temperature" in gradients
    for rank in ranks[world]:
        their_loss, their_gradients = rank["results"][name]
        torch.testing.assert_close(their_loss, loss, rtol=1e-12, atol=0)
        assert deviation(gradients, their_gradients) < 1e-9


@pytest.mark.parametrize("world", WORLDS)
def test_without_gathering_they_are_not(ranks: dict, world: int) -> None:
    """What plain accumulation or plain DDP would give: the comparison above can fail."""
    loss, gradients = step(network(), batch(0, 1), Case())
    for rank in ranks[world]:
        their_loss, their_gradients = rank["results"]["not gathered"]
        assert abs(their_loss - loss) > 0.1
        assert deviation(gradients, their_gradients) > 0.1


@pytest.mark.parametrize("world", WORLDS)
def test_rows_come_in_the_order_of_the_ranks(ranks: dict, world: int) -> None:
    for rank in ranks[world]:
        assert rank["order"].ravel().tolist() == [r for r in range(world) for _ in range(2)]


@pytest.mark.parametrize("world", WORLDS)
def test_unequal_batches_and_steps_are_refused_on_every_rank(ranks: dict, world: int) -> None:
    for rank in ranks[world]:
        assert f"batches of {[3 + r for r in range(world)]} cells" in rank["unequal"]
        assert f"stand at steps {[7 + r for r in range(world)]}" in rank["steps"]


@pytest.mark.parametrize("world", WORLDS)
def test_every_rank_names_the_cell_that_is_not_finite(ranks: dict, world: int) -> None:
    whole = "rank 0: all embeddings finite; the batch: slide S0: 3 cells (cell0, cell1, cell2)"
    for rank in ranks[world]:
        assert "the loss is nan at step 1 (epoch 0)" in rank["finite"]
        assert "rank 1: image embeddings not finite for 1 of 3 cells" in rank["finite"]
        assert "(cell11)" in rank["finite"]
        assert whole in rank["finite"]


def test_a_single_process_gets_its_own_tensor() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    assert gather_with_gradient(x) is x
    require_same_step(3, torch.device("cpu"))
