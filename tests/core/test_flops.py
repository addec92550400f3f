"""The formulas against torch's own counter, component by component and for the whole dual encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from past_core.losses import contrastive_loss
from past_core.models.cell_encoder import CellEncoder, CellEncoderConfig, star_graph
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig, ProjectionHead
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.models.lengths import plan_chunks
from past_core.planning import flops
from past_core.planning.devices import ACCELERATORS, DeviceError, find_accelerator, peak_flops, recognise

EXACT = 1e-9
"""Products are counted exactly; attention too, as the meta device takes the path that recomputes nothing."""

SMALL_VIT = {"embed_dim": 96, "depth": 3, "num_heads": 3, "mlp_ratio": 2}


def count(forward, *, backward: bool = True) -> flops.Flops:
    """torch's counts of a forward pass and of its backward pass."""
    with FlopCounterMode(display=False) as first:
        output = forward()
    with FlopCounterMode(display=False) as second:
        if backward:
            output.sum().backward()
    return flops.Flops(first.get_total_flops(), second.get_total_flops())


def close(counted: flops.Flops, formula: flops.Flops, tolerance: float = EXACT) -> None:
    assert formula.forward == pytest.approx(counted.forward, rel=tolerance)
    assert formula.backward == pytest.approx(counted.backward, rel=tolerance)


def meta(build):
    with torch.device("meta"):
        return build()


def cell_config(**changes) -> CellEncoderConfig:
    sizes = {"vocabulary_size": 50, "width": 32, "depth": 2, "heads": 4, "feedforward": 48, "max_genes": 30}
    return CellEncoderConfig(**sizes | changes)


# --- image ------------------------------------------------------------------------------------------------


def test_a_large_vit_takes_123_gflop():
    """The figure that open_clip's model profile publishes for ViT-L/16 at 224 px."""
    formula = flops.image_flops(ImageEncoderConfig())
    assert formula.forward == pytest.approx(123.11e9, rel=1e-4)
    assert formula.training / formula.forward == pytest.approx(3, rel=2e-3)


@pytest.mark.parametrize(
    "config",
    [
        ImageEncoderConfig(),
        ImageEncoderConfig("vit_tiny_patch16_224", image_size=112, options=SMALL_VIT),
        ImageEncoderConfig("vit_base_patch32_224", options={"depth": 2}),
        ImageEncoderConfig("vit_small_patch14_reg4_dinov2", image_size=70, options={"depth": 2}),
        ImageEncoderConfig("vit_small_patch16_224", options={"depth": 2, "global_pool": "avg"}),
    ],
    ids=lambda config: config.name,
)
def test_vit_formula_equals_the_counter(config: ImageEncoderConfig):
    assert flops.vit_shape(config) is not None
    model = flops.meta_image_encoder(config).train()
    images = torch.empty(2, 3, config.image_size, config.image_size, device="meta")
    close(count(lambda: model(images)), 2 * flops.image_flops(config))


def test_other_models_are_counted_per_image():
    config = ImageEncoderConfig("resnet18", image_size=64)
    assert flops.vit_shape(config) is None
    model = flops.meta_image_encoder(config)
    images = torch.empty(3, 3, 64, 64, device="meta")
    close(count(lambda: model(images)), 3 * flops.image_flops(config))
    assert flops.image_width(config) == 512


# --- cell -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[33], [3, 4], [20, 7, 31, 12]])
@pytest.mark.parametrize("changes", [{}, {"width": 64, "depth": 1, "feedforward": 16, "norm_first": True}])
def test_the_transformer_over_true_lengths(lengths: list[int], changes: dict):
    config = cell_config(**changes)
    encoder = meta(lambda: CellEncoder(config))

    def forward():
        # One call for each cell, so that nothing is padded.
        return torch.cat(
            [encoder.transform(torch.empty(1, n, dtype=torch.long, device="meta")) for n in lengths]
        )

    close(count(forward), flops.transform_flops(config, lengths))


def test_the_transformer_with_dense_padding():
    config = cell_config()
    encoder = meta(lambda: CellEncoder(config))
    tokens = torch.empty(5, 33, dtype=torch.long, device="meta")
    close(count(lambda: encoder.transform(tokens)), flops.transform_flops(config, np.full(5, 33)))


def test_flash_attention_counts_its_recomputation_only_backwards():
    """On the CPU torch counts the scores that flash attention computes again: half a forward pass more."""
    config = cell_config(depth=1)
    lengths = np.full(4, 33)
    encoder = CellEncoder(config)
    counted = count(lambda: encoder.transform(torch.full((4, 33), 40)))
    formula = flops.transform_flops(config, lengths)
    again = flops.attention(1, 1, config.width).forward / 2 * np.square(lengths).sum()
    close(counted, formula + flops.Flops(0, again))


@pytest.mark.parametrize(("cells", "neighbors", "layers"), [(4, 8, 2), (7, 3, 1), (2, 1, 3)])
def test_graph_and_fusion(cells: int, neighbors: int, layers: int):
    config = cell_config(graph_layers=layers)
    encoder = CellEncoder(config)
    near = torch.arange(cells * neighbors).reshape(cells, neighbors) % cells
    graph = star_graph(torch.arange(cells), near, torch.ones(cells, neighbors))
    features = torch.randn(cells, 32, requires_grad=True)
    counted = count(lambda: encoder.graph_encoder(features[graph.nodes], graph, cells))
    close(counted, flops.graph_flops(config, cells, neighbors=neighbors))
    vector = meta(lambda: torch.empty(cells, 32, requires_grad=True))
    fusion = meta(lambda: CellEncoder(config))
    close(count(lambda: fusion.fuse(vector, vector)), flops.fusion_flops(config, cells))


def test_heads_and_loss():
    head = meta(lambda: ProjectionHead(48, 16))
    features = meta(lambda: torch.empty(6, 48, requires_grad=True))
    close(count(lambda: head(features)), flops.head_flops(48, 16, 6))
    image, cell = (torch.randn(10, 16, requires_grad=True) for _ in range(2))
    close(count(lambda: contrastive_loss(image, cell, 0.1).loss), flops.loss_flops(10, 16))


# --- both -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph_layers", [0, 1, 2])
def test_a_whole_step_equals_the_counter(graph_layers: int):
    config = DualEncoderConfig(
        ImageEncoderConfig("vit_tiny_patch16_224", image_size=32, options=SMALL_VIT),
        cell_config(graph_layers=graph_layers),
        projection_dim=16,
    )
    cells, neighbors = 6, 4
    model = DualEncoder(config).train()
    tokens = torch.full((cells, 33), 40)
    near = torch.arange(cells * neighbors).reshape(cells, neighbors) % cells
    inputs = (torch.rand(cells, 3, 32, 32), tokens, torch.arange(cells), near, torch.ones(cells, neighbors))
    counted = count(lambda: contrastive_loss(**model(*inputs)._asdict()).loss)
    parts = flops.step_flops(config, np.full(cells, 33), neighbors=neighbors)
    # On the CPU torch counts the scores that flash attention computes again in its backward pass.
    again = 3 * 2 * cells * 5**2 * 96 + 2 * 2 * cells * 33**2 * 32  # image, cell: layers x 2 T T width
    again += 2 * cells * 2 * 32 if graph_layers else 0  # fusion: one query, two keys
    close(counted, flops.sum_flops(parts) + flops.Flops(0, again))


@pytest.mark.parametrize(("norm_first", "image"), [(False, {}), (True, {"init_values": 1e-5})])
@pytest.mark.parametrize(
    ("microbatch", "checkpointing"), [(None, False), (None, True), (4, False), (4, True)]
)
def test_padding_and_recomputation_equal_the_counter(
    norm_first: bool, image: dict, microbatch: int | None, checkpointing: bool
):
    config = DualEncoderConfig(
        ImageEncoderConfig("vit_tiny_patch16_224", image_size=32, options=SMALL_VIT | image),
        cell_config(graph_layers=0, norm_first=norm_first, max_genes=300),
        projection_dim=16,
    )
    lengths = np.array([10, 300, 12, 290, 11, 8, 12, 9, 10, 10])
    tokens = torch.full((10, 303), 40)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 1
    near = torch.zeros(10, 2, dtype=torch.long)
    images, centres = torch.rand(10, 3, 32, 32), torch.arange(10)
    model = DualEncoder(config).train()

    def step():
        return contrastive_loss(**model(images, tokens, centres, near, near.float(), lengths)._asdict()).loss

    plain = count(step)
    model.microbatch = microbatch
    model.set_activation_checkpointing(checkpointing)
    counted = count(step)
    extra = flops.extra_flops(config, lengths, microbatch=microbatch, checkpointing=checkpointing)
    own = flops.sum_flops(flops.step_flops(config, lengths, neighbors=2))
    chunks = plan_chunks(lengths, most=microbatch).chunks
    again = 3 * 2 * 10 * 5**2 * 96  # what the CPU's flash attention computes again, as above
    again += 2 * 2 * 32 * sum((c.stop - c.start) * c.width**2 for c in chunks)
    assert counted.training == pytest.approx(own.training + sum(extra.values()) + again, rel=EXACT)
    assert (extra["recomputation"] > 0) == (microbatch is not None or checkpointing)
    if microbatch is None:
        assert counted.training - plain.training == pytest.approx(extra["recomputation"], rel=EXACT)


@pytest.mark.parametrize("graph", [True, False])
def test_the_published_networks_equal_the_counter(graph: bool):
    """Other widths in the graph, all its cells joined, and padding that is pooled and so is no waste."""
    published = DualEncoderConfig.published(graph=graph, vocabulary_size=50)
    cell = replace(published.cell, depth=1)
    config = replace(published, image=replace(published.image, options={"depth": 1}), cell=cell)
    cells, neighbors, lengths = 3, 2, np.array([20, 9, 303])
    tokens = torch.full((cells, 303), 40)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 1
    near = torch.arange(cells * neighbors).reshape(cells, neighbors) % cells
    inputs = (
        torch.rand(cells, 3, 224, 224),
        tokens,
        torch.arange(cells),
        near,
        torch.ones(near.shape),
        lengths,
    )
    model = DualEncoder(config).train()
    counted = count(lambda: contrastive_loss(**model(*inputs)._asdict()).loss)
    again = 2 * cells * (197**2 * 1024 + 300**2 * 512 + (2 * 512 if graph else 0))
    parts = flops.step_flops(config, lengths, neighbors=neighbors)
    close(counted, flops.sum_flops(parts) + flops.Flops(0, again))
    assert flops.extra_flops(config, lengths)["padding"] == 0


def test_the_papers_dual_encoder():
    """421 GFLOP a sample with dense padding to 300 tokens, of which the image encoder takes 88 %."""
    config = DualEncoderConfig(
        ImageEncoderConfig(), CellEncoderConfig(vocabulary_size=20_340, max_genes=297, graph_layers=0)
    )
    parts = flops.step_flops(config, [300])
    total = flops.sum_flops(parts)
    assert total.training == pytest.approx(421e9, rel=0.005)
    assert parts["image encoder"].training / total.training == pytest.approx(0.88, abs=0.005)
    assert parts["cell transformer"].forward == pytest.approx(17.3e9, rel=0.005)


def test_every_rank_computes_the_whole_loss():
    config = DualEncoderConfig(ImageEncoderConfig(options={"depth": 1}), cell_config())
    one = flops.step_flops(config, [10] * 8, ranks=1)
    four = flops.step_flops(config, [10] * 8, ranks=4)
    assert four.pop("loss").forward == 16 * one.pop("loss").forward
    assert one == four


@given(st.lists(st.integers(4, 300), min_size=1, max_size=20))
@settings(max_examples=30)
def test_padding_only_adds(lengths: list[int]):
    config = cell_config()
    own = flops.transform_flops(config, lengths)
    padded = flops.transform_flops(config, [max(lengths)] * len(lengths))
    alone = flops.sum_flops({str(i): flops.transform_flops(config, [n]) for i, n in enumerate(lengths)})
    assert padded.training >= own.training
    assert own.training == pytest.approx(alone.training)


def test_the_first_layer_of_pixels_needs_no_input_gradient():
    assert flops.product(2, 3, 4, input_gradient=False) == flops.Flops(48, 48)
    layer = nn.Linear(3, 4)
    close(count(lambda: layer(torch.ones(2, 3))), flops.product(2, 3, 4, input_gradient=False))


# --- devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own_name", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla T4", "t4"),
        ("AMD EPYC 9654", None),
    ],
)
def test_devices_are_recognised(own_name: str, name: str | None):
    found = recognise(own_name)
    assert (found.name if found else None) == name


@pytest.mark.parametrize("name", ["a100", "h100 sxm", "h100 pcie", "l4", "t4", "v100 sxm"])
def test_peaks_agree_with_the_trainers_table(name: str):
    """Where the trainer has dense rates too; its H200 figures are the sparse ones."""
    from lightning.fabric.utilities.throughput import _CUDA_FLOPS

    theirs = _CUDA_FLOPS[name]
    ours = ACCELERATORS[name.replace("h100 sxm", "h100").replace(" pcie", "-pcie").replace(" sxm", "")].peak
    for kind, key in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        assert ours.get(kind, 0) == pytest.approx(theirs.get(key, 0), rel=0.01)


def test_precisions_have_their_own_peak():
    a100, v100 = find_accelerator("A100"), find_accelerator("v100")
    assert peak_flops(a100, "bf16-mixed") == 312e12
    assert peak_flops(a100, "32-true") == 19.5e12
    assert peak_flops(a100, "32-true", tf32=True) == 156e12
    assert peak_flops(v100, "bf16-mixed") is None
    assert peak_flops(v100, "32-true", tf32=True) == v100.peak["fp32"]
    assert peak_flops(a100, "64-true") is None


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(DeviceError, match=r"'a1000' is not known; did you mean a100\?.*h100.*v100"):
        find_accelerator("a1000")
