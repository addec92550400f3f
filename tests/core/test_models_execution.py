"""Options of execution: microbatches and activation checkpointing save memory and change no gradient."""

import weakref

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from past_core.losses import contrastive_loss
from past_core.models import lengths as planning
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.models.errors import ModelError
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.vocabulary import PAD


def dual(*, width=16, depth=2, name="vit_tiny_patch16_224", image=None, **cell):
    torch.manual_seed(0)
    options = {"embed_dim": width, "depth": depth, "num_heads": 2, "mlp_ratio": 2}
    return DualEncoder(
        DualEncoderConfig(
            image=ImageEncoderConfig(name=name, image_size=32, options=options if image is None else image),
            cell=CellEncoderConfig(
                **{
                    "vocabulary_size": 60,
                    "width": width,
                    "depth": depth,
                    "heads": 2,
                    "feedforward": 2 * width,
                    "max_genes": 20,
                    "embedding_std": 1.0,
                    **cell,
                }
            ),
            projection_dim=24,
            projection_dropout=0.0,
        )
    )


def inputs(cells=10, k=3, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 24, cells)
    tokens = np.full((cells, lengths.max()), PAD)
    for row, length in enumerate(lengths):
        tokens[row, :length] = random.integers(30, 60, length)
    centres = random.permutation(cells)
    arrays = (
        random.integers(0, 256, (cells, 3, 32, 32), dtype=np.uint8),
        tokens,
        centres,
        random.integers(-1, cells, (cells, k)),
        random.gamma(2, 0.5, (cells, k)).astype(np.float32),
    )
    return *(torch.from_numpy(array) for array in arrays), lengths[centres]


def step(model, batch, *, seed=0):
    """Loss and gradients by name."""
    model.zero_grad()
    torch.manual_seed(seed)
    loss = contrastive_loss(**model(*batch)._asdict()).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(found, expected, tolerance):
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    for name, gradient in expected[1].items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("microbatch", [1, 3, 4])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_microbatches_are_one_large_batch(monkeypatch, dtype, tolerance, microbatch, checkpointing):
    monkeypatch.setattr(planning, "CHUNK_COST", 20)
    model, batch = dual().to(dtype), inputs()
    whole = step(model, batch)
    model.microbatch = microbatch
    model.set_activation_checkpointing(checkpointing)
    seen = []
    model.image_encoder.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    assert_same(step(model, batch), whole, tolerance)
    assert max(seen) <= microbatch
    assert sum(seen) == 2 * 10  # forward, and again in backward
    model.microbatch = None
    seen.clear()
    assert_same(step(model, batch), whole, tolerance)
    assert seen == [10]


@pytest.mark.parametrize("checkpointing", [True, False])
def test_dropout_is_the_same_when_computed_again(monkeypatch, checkpointing):
    """Masks are those of the same slices run without recomputation."""
    model, batch = dual(dropout=0.3), inputs()
    model.microbatch = 4
    model.set_activation_checkpointing(checkpointing)
    found = step(model, batch, seed=5)
    assert not torch.equal(found[0], step(model, batch, seed=6)[0])

    def keep(function, *args, use_reentrant):
        return function(*args)

    for module in ("dual_encoder", "cell_encoder"):
        monkeypatch.setattr(f"past_core.models.{module}.checkpoint", keep)
    model.image_encoder.model.set_grad_checkpointing(False)
    assert_same(found, step(model, batch, seed=5), 1e-6)


class Memory(TorchDispatchMode):
    """Peak bytes of the tensors made while it is active."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known:
                    self._known.add(key)
                    self.live += size
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._free, key, size)
        return result

    def _free(self, key, size):
        self._known.discard(key)
        self.live -= size


def peak_bytes(model, cells):
    batch = inputs(cells)
    model.zero_grad()
    with Memory() as memory:
        contrastive_loss(**model(*batch)._asdict()).loss.backward()
    return memory.peak


def test_memory_is_that_of_a_microbatch():
    """What a further cell costs: with microbatches no activations of either transformer."""
    model = dual(width=32, depth=4)

    def per_cell():
        return (peak_bytes(model, 48) - peak_bytes(model, 16)) / 32

    whole = per_cell()
    model.microbatch = 4
    assert per_cell() < whole / 6
    model.microbatch = None
    model.set_activation_checkpointing(True)
    assert per_cell() < whole / 2


def test_saved_activations_are_inputs_and_outputs():
    """Bytes that autograd keeps between forward and backward do not depend on the transformers' depth."""

    def saved(model, cells):
        batch, total = inputs(cells), 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(*batch)
        return total

    shallow, deep = dual(depth=1), dual(depth=6)
    assert saved(deep, 16) > 2 * saved(shallow, 16)
    shallow.microbatch = deep.microbatch = 4
    assert saved(deep, 16) == saved(shallow, 16)


def test_autocast_is_the_same_when_computed_again():
    model, batch = dual(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        whole = step(model, batch)
        model.microbatch = 4
        model.set_activation_checkpointing(True)
        found = step(model, batch)
    assert abs(found[0] - whole[0]) < 0.02
    for name, gradient in whole[1].items():
        assert (found[1][name] - gradient).norm() <= 0.1 * gradient.norm() + 1e-3, name


def test_works_in_ddp_where_every_parameter_is_used(tmp_path):
    model, batch = dual(), inputs()
    expected = step(model, batch)
    model.microbatch = 4
    model.set_activation_checkpointing(True)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=False)
        for _ in range(2):  # a second step finds what the first left unreduced
            wrapped.zero_grad()
            loss = contrastive_loss(**wrapped(*batch)._asdict()).loss
            loss.backward()
    finally:
        dist.destroy_process_group()
    assert_same((loss.detach(), {n: p.grad for n, p in model.named_parameters()}), expected, 1e-5)


def test_inference_runs_in_microbatches_too():
    model, batch = dual().eval(), inputs()
    with torch.no_grad():
        whole = model(*batch)
        model.microbatch = 3
        for found, expected in zip(model(*batch), whole, strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("graph_layers", [0, 1, 2])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("microbatch", [None, 4])
def test_no_parameter_is_without_a_gradient(graph_layers, norm_first, microbatch):
    model = dual(graph_layers=graph_layers, norm_first=norm_first)
    model.microbatch = microbatch
    _, gradients = step(model, inputs())
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert {name for name, _ in model.named_buffers()} == {"image_encoder.scale", "image_encoder.shift"}


def test_options_are_not_in_the_state():
    model = dual()
    before = set(model.state_dict())
    model.microbatch = 4
    model.set_activation_checkpointing(True)
    assert model.activation_checkpointing
    assert set(model.state_dict()) == before
    model.set_activation_checkpointing(False)
    assert not model.activation_checkpointing


def test_options_that_cannot_be_are_refused():
    model = dual(name="resnet18", image={})
    with pytest.raises(ModelError, match="microbatch would change the batch normalisation of resnet18"):
        model.microbatch = 2
    with pytest.raises(ModelError, match="activation checkpointing would change the batch normalisation"):
        model.set_activation_checkpointing(True)
    model.set_activation_checkpointing(False)
    with pytest.raises(ModelError, match="microbatch is 0"):
        dual().microbatch = 0
