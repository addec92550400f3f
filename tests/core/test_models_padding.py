"""Padding that costs nothing: sequences of like length run together, and attention holds no T × T matrix."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from past_core.models import cell_encoder, packed, transformer
from past_core.models import lengths as planning
from past_core.models.cell_encoder import CellEncoder, CellEncoderConfig
from past_core.models.errors import ModelError
from past_core.models.image_encoder import ImageEncoder, ImageEncoderConfig
from past_core.models.lengths import plan_chunks
from past_core.vocabulary import PAD

SMALL = {"vocabulary_size": 60, "width": 16, "heads": 4, "feedforward": 24, "max_genes": 20}
some_lengths = st.lists(st.integers(3, 14) | st.just(23), min_size=1, max_size=40).map(np.array)


def encoder(**changes):
    torch.manual_seed(0)
    return CellEncoder(CellEncoderConfig(**{**SMALL, "depth": 2, "embedding_std": 1.0, **changes})).double()


def sequences(lengths, *, longest=23, seed=0):
    random = np.random.default_rng(seed)
    tokens = np.full((len(lengths), longest), PAD)
    for row, length in enumerate(lengths):
        tokens[row, :length] = random.integers(30, 60, length)
    return torch.from_numpy(tokens)


@given(some_lengths, st.sampled_from([0, 10, 60]), st.sampled_from([None, 1, 3, 8]))
def test_every_sequence_is_in_one_chunk_that_fits_it(lengths, cost, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "CHUNK_COST", cost)
        order, chunks = plan_chunks(lengths, most=most)
    ordered = lengths if order is None else lengths[order]
    assert order is None or np.array_equal(np.sort(order), np.arange(len(lengths)))
    assert [chunk.start for chunk in chunks] == [0, *(chunk.stop for chunk in chunks[:-1])]
    assert chunks[-1].stop == len(lengths)
    for start, stop, width, padded in chunks:
        assert width == ordered[start:stop].max()
        assert padded == (ordered[start:stop].min() < width)
        assert most is None or 0 < stop - start <= most


@settings(max_examples=25)
@given(some_lengths, st.sampled_from([0, 10, 60]))
def test_no_other_cuts_cost_less(lengths, cost):
    """Against all ways to cut the sorted batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "CHUNK_COST", cost)
        plan = plan_chunks(lengths)
    ascending, n = np.sort(lengths), len(lengths)
    # A cut anywhere but where the length changes can be moved there for less.
    steps = (np.flatnonzero(np.diff(ascending)) + 1).tolist()
    best = min(
        sum((b - a) * int(ascending[b - 1]) + cost for a, b in itertools.pairwise([0, *cuts, n]))
        for number in range(min(planning.MAX_CHUNKS, len(steps) + 1))
        for cuts in itertools.combinations(steps, number)
    )
    assert plan.tokens + cost * len(plan.chunks) == best
    assert len(plan.chunks) <= planning.MAX_CHUNKS


def test_small_batches_stay_whole():
    assert plan_chunks(np.array([3, 50, 9, 103, 60])).order is None


def test_a_panel_of_377_genes_wastes_little():
    """Detected genes as on such a panel: 303 positions would be five times the tokens."""
    lengths = 3 + np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(6, 10, 1024)).clip(1, 300)
    plan = plan_chunks(lengths)
    assert plan.tokens < 1.25 * lengths.sum()
    assert 3.5 * plan.tokens < 303 * 1024


@settings(max_examples=25)
@given(st.integers(0, 1000), some_lengths, st.sampled_from([None, 3]))
def test_chunks_change_no_output_and_no_gradient(seed, lengths, most):
    model = encoder()
    tokens = sequences(lengths, seed=seed)
    towards = torch.randn(len(tokens), 16, dtype=torch.float64)
    results = []
    for cost, microbatch in ((10**9, None), (0, most)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planning, "CHUNK_COST", cost)
            model.microbatch = microbatch
            output = model.transform(tokens, lengths)
        gradients = torch.autograd.grad((output * towards).sum(), list(model.layers.parameters()))
        results.append((output, *gradients))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-9)


def attend_one_by_one(query, key, value, spans):
    """What the packed kernel of a GPU computes, sequence by sequence."""
    assert spans.ends.dtype == torch.int32
    assert spans.longest == spans.ends.diff().max()
    parts = []
    for start, stop in itertools.pairwise(spans.ends.tolist()):
        q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        parts.append((weights @ v).transpose(0, 1))
    return torch.cat(parts)


@settings(max_examples=10)
@given(st.integers(0, 1000), some_lengths, st.sampled_from([None, 1, 3]), st.booleans(), st.booleans())
def test_packed_sequences_change_no_output_and_no_gradient(seed, lengths, most, checkpointing, first):
    """As on a GPU, but for the attention's kernel, which the benchmark of a step compares there."""
    model = encoder(norm_first=first)
    tokens = sequences(lengths, seed=seed)
    towards = torch.randn(len(tokens), 16, dtype=torch.float64)
    parameters = [p for name, p in model.named_parameters() if name.startswith(("layers", "embed", "posit"))]
    results = []
    for together in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cell_encoder, "can_pack", lambda *_, together=together, **__: together)
            patch.setattr(transformer, "attend_spans", attend_one_by_one)
            model.microbatch, model.activation_checkpointing = (
                (most, checkpointing) if together else (None, False)
            )
            output = model.transform(tokens, lengths)
            results.append((output, *torch.autograd.grad((output * towards).sum(), parameters)))
    for padded, unpadded in zip(*results, strict=True):
        torch.testing.assert_close(unpadded, padded, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kernel", "works"),
    [
        (attend_one_by_one, True),
        (lambda query, *_: query, False),  # runs, and is wrong
        (lambda query, key, value, _spans: torch.ops.aten._flash_attention_forward(), False),  # refuses
    ],
)
def test_a_packed_kernel_is_held_against_ordinary_attention(kernel, works, monkeypatch, caplog):
    monkeypatch.setattr(packed, "attend_spans", kernel)
    for asked_in in (torch.enable_grad, torch.no_grad, torch.inference_mode):  # validation may come first
        packed.spans_work.cache_clear()
        caplog.clear()
        with asked_in():
            assert packed.spans_work(torch.device("cpu")) == works
        assert bool(caplog.records) != works
    packed.spans_work.cache_clear()


def test_nothing_is_packed_without_a_gpu():
    model = encoder().float()
    assert not packed.can_pack(model.layers[0].self_attn, torch.device("cpu"), training=False)


def test_lengths_come_from_the_host_or_not_at_all(monkeypatch):
    monkeypatch.setattr(planning, "CHUNK_COST", 0)
    monkeypatch.setattr(planning, "ACCELERATOR_CHUNK_COST", 0)
    model = encoder()
    seen = []
    model.layers[0].register_forward_hook(
        lambda _module, args, _output: seen.append(tuple(args[0].shape[:2]))
    )
    lengths = np.array([5, 20, 5, 23])
    tokens = sequences(lengths)
    model.transform(tokens, lengths)
    model.transform(tokens)
    assert seen == [(2, 5), (1, 20), (1, 23)] * 2
    seen.clear()
    on_device = model.to("meta")  # it has no values: reading one back would fail
    on_device.transform(tokens.to("meta"))
    on_device.transform(tokens.to("meta"), lengths)
    assert seen == [(4, 23), (2, 5), (1, 20), (1, 23)]


@pytest.mark.parametrize("lengths", [np.array([5, 20, 5]), np.array([5, 19, 5, 23])])
def test_lengths_of_other_cells_are_refused(lengths):
    with pytest.raises(ModelError, match="are not those of the tokens"):
        encoder().transform(sequences([5, 20, 5, 23]), lengths)


# --- attention ---------------------------------------------------------------------------------------------


class Operators(TorchDispatchMode):
    """Names of the operators that run, and the shapes of what they make."""

    def __init__(self):
        super().__init__()
        self.names, self.shapes = [], []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        self.names.append(operator.overloadpacket.__name__)
        self.shapes += [tuple(x.shape) for x in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(x)]
        return result


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_cell_attention_is_fused(training, half, padded):
    model = encoder(norm_first=training).float().train(training)
    tokens = sequences([23, 11 if padded else 23])
    with (
        Operators() as seen,
        torch.set_grad_enabled(training),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        output = model.transform(tokens)
        if training:
            output.square().sum().backward()
    fused = "_scaled_dot_product_flash_attention_for_cpu"
    assert seen.names.count(fused) == 2
    assert seen.names.count(f"{fused}_backward") == (2 if training else 0)
    assert not [shape for shape in seen.shapes if shape[-2:] == (23, 23)]
    assert "softmax" not in " ".join(seen.names)


@pytest.mark.parametrize("training", [True, False])
def test_image_attention_is_fused(training):
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
    model = ImageEncoder(ImageEncoderConfig(name="vit_tiny_patch16_224", image_size=64, options=options))
    model.train(training)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with Operators() as seen, torch.set_grad_enabled(training):
        output = model(images)
        if training:
            output.square().sum().backward()
    assert seen.names.count("_scaled_dot_product_flash_attention_for_cpu") == 2
    assert not [shape for shape in seen.shapes if shape[-2:] == (17, 17)]


def test_an_accelerator_gets_fewer_groups() -> None:
    lengths = 3 + np.random.default_rng(0).gamma(4.0, 15.0, 512).round().clip(1, 300).astype(np.int64)
    here, there = plan_chunks(lengths), plan_chunks(lengths, accelerator=True)
    assert 1 <= len(there.chunks) < len(here.chunks)
    # A further group is made where it saves more than it costs.
    assert there.tokens + planning.ACCELERATOR_CHUNK_COST * (len(there.chunks) - 1) <= 512 * lengths.max()
    assert len(plan_chunks(np.repeat(lengths, 64), accelerator=True).chunks) > len(there.chunks)
