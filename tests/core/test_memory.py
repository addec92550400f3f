"""The model of activation memory against what autograd really keeps, on the CPU, at small sizes.

Layers, which are nearly all of it at full size, must agree within 1 %; the whole small dual encoder, where
graph, heads and loose ends weigh more, within 5 %.
"""

from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch.utils.checkpoint import checkpoint

from past_core.losses import contrastive_loss
from past_core.models.cell_encoder import CellEncoder, CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.models.image_encoder import ImageEncoder, ImageEncoderConfig
from past_core.planning import memory
from past_core.planning.flops import vit_shape
from past_core.planning.memory import Width

LAYERS, WHOLE = 0.01, 0.05
PRECISIONS = ["32-true", "bf16-mixed"]


def kept_bytes(forward, module: torch.nn.Module, precision: str = "32-true") -> int:
    """Bytes of all storages that autograd keeps, weights and their 16-bit copies left out."""
    shapes = {tuple(parameter.shape) for parameter in module.parameters() if parameter.ndim >= 2}
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        shape = tuple(tensor.shape)
        copy = tensor.dtype == torch.bfloat16 and (shape in shapes or shape[::-1] in shapes)
        if not copy:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        alive.append(forward())
    return sum(size for place, size in kept.items() if place not in weights)


def image_config(depth: int = 2, **options) -> ImageEncoderConfig:
    sizes = {"embed_dim": 64, "depth": depth, "num_heads": 4, "mlp_ratio": 3} | options
    return ImageEncoderConfig("vit_tiny_patch16_224", image_size=64, options=sizes)


def cell_config(**changes) -> CellEncoderConfig:
    sizes = {"vocabulary_size": 50, "width": 64, "depth": 2, "heads": 4, "feedforward": 96, "max_genes": 30}
    return CellEncoderConfig(**sizes | changes)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("options", [{}, {"init_values": 1e-5}], ids=["plain", "layer scale"])
def test_a_vit_block(precision: str, options: dict):
    measured = []
    for depth in (2, 3):
        encoder = ImageEncoder(image_config(depth, **options)).train()
        measured.append(kept_bytes(partial(encoder, torch.rand(8, 3, 64, 64)), encoder, precision))
    shape = vit_shape(image_config(2, **options))
    block = 8 * memory.vit_block_bytes(shape, Width.of(precision))
    assert measured[1] - measured[0] == pytest.approx(block, rel=LAYERS)
    assert measured[0] == pytest.approx(8 * memory.vit_bytes(shape, Width.of(precision)), rel=WHOLE)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("changes", [{}, {"norm_first": True, "activation": "gelu", "feedforward": 40}])
def test_a_layer_of_the_cell_transformer(precision: str, changes: dict):
    lengths = np.full(16, 33)
    tokens = torch.full((16, 33), 40)
    measured = []
    for depth in (2, 3):
        encoder = CellEncoder(cell_config(depth=depth, **changes)).train()
        measured.append(kept_bytes(partial(encoder.transform, tokens, lengths), encoder, precision))
    config = cell_config(**changes)
    layer = memory.transformer_layer_bytes(config, 16 * 33, Width.of(precision))
    assert measured[1] - measured[0] == pytest.approx(layer, rel=LAYERS)
    assert measured[0] == pytest.approx(memory.transform_bytes(config, lengths, precision), rel=WHOLE)


def test_padding_is_kept_only_up_to_the_chunk():
    config = cell_config(max_genes=300)
    mixed = np.array([20] * 60 + [300] * 4)
    encoder = CellEncoder(config).train()
    tokens = torch.full((64, 300), 40)
    for row, length in enumerate(mixed):
        tokens[row, length:] = 1
    measured = kept_bytes(lambda: encoder.transform(tokens, mixed), encoder)
    assert measured == pytest.approx(memory.transform_bytes(config, mixed, "32-true"), rel=WHOLE)
    assert measured < 0.2 * memory.transform_bytes(config, np.full(64, 300), "32-true")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph_layers", [0, 1, 2])
def test_a_whole_dual_encoder(precision: str, graph_layers: int):
    config = DualEncoderConfig(image_config(), cell_config(graph_layers=graph_layers), projection_dim=16)
    cells, neighbors = 24, 8
    model = DualEncoder(config).train()
    near = torch.arange(cells * neighbors).reshape(cells, neighbors) % cells
    inputs = (
        torch.rand(cells, 3, 64, 64),
        torch.full((cells, 33), 40),
        torch.arange(cells),
        near,
        torch.ones(near.shape),
        np.full(cells, 33),
    )
    measured = kept_bytes(lambda: model(*inputs), model, precision)
    assert measured == pytest.approx(memory.activation_bytes(config, inputs[-1], precision), rel=WHOLE)


def test_the_loss_keeps_matrices_of_all_cells_against_all():
    image, cell = (torch.nn.functional.normalize(torch.randn(200, 8, requires_grad=True)) for _ in range(2))
    temperature = torch.tensor(0.1, requires_grad=True)
    kept = kept_bytes(lambda: contrastive_loss(image, cell, temperature).loss, torch.nn.Module())
    assert kept / 200**2 / 4 == pytest.approx(5, abs=0.3)
    assert memory.loss_bytes(200) == pytest.approx(2 * kept, rel=0.06)


def test_checkpointing_keeps_the_inputs_of_layers():
    config = image_config(depth=4)
    encoder = ImageEncoder(config).train()
    encoder.model.set_grad_checkpointing(True)
    images = torch.rand(8, 3, 64, 64)
    measured = kept_bytes(lambda: encoder(images), encoder)
    shape = vit_shape(config)
    plan = 8 * memory.vit_bytes(shape, Width.of("32-true"), checkpointing=True)
    # The plan is for the moment when a block has been recomputed.
    again = 8 * memory.vit_block_bytes(shape, Width.of("32-true"))
    assert measured == pytest.approx(plan - again, rel=WHOLE)
    assert plan < 0.5 * 8 * memory.vit_bytes(shape, Width.of("32-true"))


def test_a_microbatch_holds_one_chunk_at_a_time():
    config = DualEncoderConfig(image_config(), cell_config(graph_layers=0), projection_dim=16)
    lengths = np.full(64, 20)
    whole = memory.activation_bytes(config, lengths, "32-true")
    eighth = memory.activation_bytes(config, lengths, "32-true", microbatch=8)
    heads = memory.head_bytes(config, 64)
    assert eighth - heads == pytest.approx(8 * memory.image_bytes(config.image, "32-true"))
    assert eighth < whole / 5
    assert memory.activation_bytes(config, lengths, "32-true", microbatch=64) == whole


def test_a_recomputed_chunk_is_as_large_as_planned():
    """What comes into being when one microbatch's backward pass starts."""
    encoder = ImageEncoder(image_config()).train()
    images = torch.rand(8, 3, 64, 64, requires_grad=True)
    outside = kept_bytes(lambda: checkpoint(encoder, images, use_reentrant=False), encoder)
    assert outside <= images.nbytes


def test_models_that_are_no_vit_are_traced():
    config = ImageEncoderConfig("resnet18", image_size=64)
    model = timm.create_model("resnet18", num_classes=0).train()
    measured = kept_bytes(lambda: model(torch.rand(4, 3, 64, 64)), model)
    assert 4 * memory.image_bytes(config, "32-true") == pytest.approx(measured, rel=WHOLE)


def test_parameters_and_the_need_of_the_paper():
    config = DualEncoderConfig(ImageEncoderConfig(), CellEncoderConfig(vocabulary_size=20_340))
    numbers = memory.count_parameters(config)
    assert numbers.image == 303_301_632
    assert numbers.total == pytest.approx(343e6, rel=0.01)
    parts = memory.step_memory(config, np.full(48, 63), "bf16-mixed", ranks=8, parameters=numbers)
    assert parts["optimiser"] == 8 * numbers.total
    assert parts["gradients"] == 8 * numbers.total
    assert parts["16-bit copies"] == pytest.approx(2 * numbers.total, rel=0.05)
    view = memory.step_memory(config, np.full(48, 63), "bf16-mixed", ranks=8, bucket_view=True)
    assert view["gradients"] == 4 * numbers.total
    alone = memory.step_memory(config, np.full(48, 63), "32-true", parameters=numbers)
    assert alone["gradients"] == 4 * numbers.total
    assert alone["16-bit copies"] == 0
    assert alone["activations"] > 1.5 * parts["activations"]
