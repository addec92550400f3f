"""The released checkpoint: names and shapes, both variants, its container, and what is refused."""

import argparse
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_published import container, save_container, small_config, small_model
from scipy import sparse

from past_core.checkpoint import CheckpointError, CheckpointNotFoundError, load_checkpoint
from past_core.encoders import load_cell_encoder, load_image_encoder
from past_core.errors import PastError
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.published import (
    import_published,
    is_dead,
    own_name,
    published_model,
    published_name,
    published_state,
    read_published,
)
from past_core.vocabulary import Vocabulary

GENES = Vocabulary(tuple(f"ENSG{number:011d}" for number in range(310)))
PARTS = {
    "image_encoder": (342, 303_350_784),
    "cell_encoder": (158, 37_906_432),
    "image_projection": (6, 328_704),
    "cell_projection": (6, 197_632),
    "temperature": (1, 1),
    "graph_encoder": (14, 211_714),
    "fusion_layer": (4, 1_050_624),
    "fusion_norm": (2, 1_024),
}


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return {graph: DualEncoder(DualEncoderConfig.published(graph=graph)) for graph in (True, False)}


# --- names and shapes --------------------------------------------------------------------------------------


def test_counts_of_tensors_and_parameters(full):
    found = {}
    for name, parameter in full[True].named_parameters():
        part = published_name(name).split(".")[0]
        tensors, values = found.get(part, (0, 0))
        found[part] = (tensors + 1, values + parameter.numel())
    assert found == PARTS
    for graph, tensors, parameters in ((True, 534, 343_046_915), (False, 513, 341_783_553)):
        assert len(published_state(full[graph])) == tensors
        assert sum(p.numel() for p in full[graph].parameters()) == parameters


def test_keys_and_shapes_are_those_of_the_release(full, shared_data):
    table = shared_data.parent / "reference" / "published-checkpoint-keys.tsv"
    if not table.is_file():
        pytest.skip(f"the list of the release's tensors is not at {table}")
    rows = (line.split("\t") for line in table.read_text().splitlines())
    expected = {key: (shape, dtype) for key, shape, dtype in rows}
    graph = ("attn_bias", "graph_encoder.", "fusion_layer.", "fusion_norm.")
    for variant, model in full.items():
        state = published_state(model)
        found = {key: (str(list(value.shape)), str(value.dtype)) for key, value in state.items()}
        assert found == {k: v for k, v in expected.items() if variant or not k.startswith(graph)}


def test_names_are_invertible_and_distinct(full):
    for model in full.values():
        own = list(model.state_dict())
        theirs = [published_name(name) for name in own]
        assert len(set(theirs)) == len(own)
        assert [own_name(name) for name in theirs] == own
    frozen = {published_name(name) for name, p in full[True].named_parameters() if not p.requires_grad}
    assert frozen == {key for key in published_state(full[True]) if is_dead(key)}
    assert len(frozen) == 14


# --- round trip --------------------------------------------------------------------------------------------


def same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("graph", [True, False])
def test_round_trip_in_their_container(tmp_path, graph):
    model = small_model(graph=graph)
    file = read_published(save_container(model, tmp_path / "checkpoint-15.pth"))
    assert (file.graph, file.epoch, file.args["batch_size"]) == (graph, 15, 48)
    loaded = published_model(file, config=small_config(graph=graph))
    same(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config
    assert not loaded.training


@pytest.mark.parametrize("graph", [True, False])
def test_import_gives_a_checkpoint_of_ours(tmp_path, graph):
    model = small_model(graph=graph)
    source = save_container(model, tmp_path / "checkpoint-context300.pth")
    means = np.where(np.arange(310) % 3 == 0, np.nan, 100.0)
    target = tmp_path / "published.safetensors"
    config = small_config(graph=graph)
    import_published(source, target, vocabulary=GENES, gene_means=means, config=config)
    loaded = load_checkpoint(target)
    same(loaded.model.state_dict(), model.state_dict())
    assert loaded.model.config == config
    assert loaded.vocabulary == GENES
    np.testing.assert_array_equal(loaded.gene_means, means)
    assert loaded.info["training"] == {
        "imported": "PASTModelGraph" if graph else "PASTModel",
        "file": "checkpoint-context300.pth",
        "epoch": 15,
    }
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.encode_image(images, space="joint")
    torch.testing.assert_close(load_image_encoder(str(target), "joint")(images), expected)


def test_the_cell_encoder_makes_published_tokens(tmp_path):
    """Context in their order, genes without a mean divided by one: as the networks were trained."""
    from past_core.published.tokens import published_tokens

    model = small_model()
    means = np.where(np.arange(310) % 3 == 0, np.nan, 100.0)
    target = tmp_path / "published.safetensors"
    source = save_container(model, tmp_path / "published.pth")
    import_published(source, target, vocabulary=GENES, gene_means=means, config=small_config())
    random = np.random.default_rng(0)
    counts = sparse.csr_matrix(random.poisson(0.6, (6, 310)))
    found = load_cell_encoder(str(target))(counts, GENES.genes, random.uniform(0, 50, (6, 2)))
    tokens, _ = published_tokens(counts, np.arange(310), means, GENES)
    others = np.array([[j for j in range(6) if j != i] for i in range(6)])
    arrays = (tokens.astype(np.int64), np.arange(6), others, np.ones((6, 5)))
    with torch.no_grad():
        expected = model.encode_cell(*map(torch.from_numpy, arrays))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_names_of_older_torch_geometric(tmp_path):
    model = small_model()
    state = container(model)["model"]
    for layer in (0, 1):
        weight = state.pop(f"graph_encoder.convs.{layer}.lin.weight")
        state[f"graph_encoder.convs.{layer}.lin_src.weight"] = weight
    state["graph_encoder.convs.0.lin_dst.weight"] = state["graph_encoder.convs.0.lin_src.weight"]
    path = save_container(model, tmp_path / "old.pth", model=state)
    same(published_model(read_published(path), config=small_config()).state_dict(), model.state_dict())
    state["graph_encoder.convs.0.lin_dst.weight"] = torch.zeros(8, 300)
    path = save_container(model, tmp_path / "old.pth", model=state)
    with pytest.raises(CheckpointError, match=r"convs.0.lin_dst.weight differs"):
        published_model(read_published(path), config=small_config())


def test_dead_weights_may_be_absent_all_together(tmp_path):
    model = small_model()
    state = {key: value for key, value in container(model)["model"].items() if not is_dead(key)}
    file = read_published(save_container(model, tmp_path / "slim.pth", model=state))
    loaded = published_model(file, config=small_config())
    assert not loaded.config.cell.dead_tensors
    same(published_state(loaded), state)


def test_the_bias_of_the_fusion_is_read(tmp_path):
    model = small_model()
    state = container(model)["model"] | {"attn_bias": torch.tensor([[0.0, -2.0]])}
    file = read_published(save_container(model, tmp_path / "bias.pth", model=state))
    assert published_model(file, config=small_config()).config.cell.fusion_bias == (0.0, -2.0)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("temperature"), "missing temperature"),
        (lambda s: s.pop("fusion_norm.bias"), "missing fusion_norm.bias"),
        (
            lambda s: s.pop("cell_encoder.encoder_layer.norm1.bias"),
            "missing cell_encoder.encoder_layer.norm1",
        ),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected extra"),
        (lambda s: s.update({"module.temperature": s.pop("temperature")}), "unexpected module.temperature"),
        (
            lambda s: s.update({"fusion_norm.bias": torch.zeros(17)}),
            r"fusion_norm.bias is \(17,\), expected \(16,\)",
        ),
        (lambda s: s.update({"fusion_norm.bias": torch.zeros(16, dtype=torch.int64)}), "is torch.int64"),
        (lambda s: s["temperature"].fill_(float("nan")), "temperature holds NaN"),
        (lambda s: s["fusion_norm.bias"][3:4].fill_(float("inf")), "fusion_norm.bias holds NaN or infinity"),
        (lambda s: s.update({"film_norm.weight": torch.ones(16)}), "fusion_type 'film'"),
        (lambda s: s.update(alpha=torch.ones(1)), "fusion_type 'weighted_add'"),
        (lambda s: s.update({"gate_net.0.weight": torch.ones(1)}), "fusion_type 'gated'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    model = small_model()
    content = container(model)
    change(content["model"])
    path = tmp_path / "published.pth"
    torch.save(content, path)
    target = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match=message) as caught:
        import_published(path, target, vocabulary=GENES, gene_means=np.ones(310), config=small_config())
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_variant_is_not_taken_for_the_other(tmp_path):
    path = save_container(small_model(graph=False), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match="missing attn_bias"):
        published_model(read_published(path), config=small_config(graph=True))


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


class Harmless:
    pass


@pytest.mark.parametrize("entry", ["args", "scaler", "epoch", "optimizer"])
def test_code_is_never_executed(tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    for value in (Evil(), argparse.Namespace(device=Evil()), Harmless(), {"deep": [Evil()]}):
        path = save_container(small_model(), tmp_path / "evil.pth", **{entry: value})
        with pytest.raises(CheckpointError, match="which is code and is never executed"):
            read_published(path)
        assert not (tmp_path / "executed").exists()
    path.write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        read_published(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0, 1, 30, 0.3, 0.9, 0.9999])
def test_truncated_files_are_refused(tmp_path, keep):
    path = save_container(small_model(), tmp_path / "published.pth")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(CheckpointError, match="truncated or damaged") as caught:
        read_published(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [{}, [1], {"model": 3}, {"state_dict": {"a": torch.ones(1)}}, {"model": {"a": 1}}, torch.ones(2)],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="not the released checkpoint"):
        read_published(path)


def test_files_and_outputs_that_cannot_be(tmp_path):
    target = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        import_published(tmp_path / "none.pth", target, vocabulary=GENES)
    path = save_container(small_model(), tmp_path / "published.pth")
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        import_published(path, tmp_path / "out.pth", vocabulary=GENES)
    target.touch()
    with pytest.raises(CheckpointError, match="exists already"):
        import_published(path, target, vocabulary=GENES)
    few = Vocabulary(GENES.genes[:9])
    with pytest.raises(CheckpointError, match="a vocabulary of 39 tokens and 9 gene means; expected 340"):
        import_published(
            path, tmp_path / "a.safetensors", vocabulary=few, gene_means=np.ones(9), config=small_config()
        )


# --- the command -------------------------------------------------------------------------------------------


def test_command(tmp_path, monkeypatch, shared_data, capsys):
    from past_core.cli import build_app

    configs = {graph: small_config(graph=graph, vocabulary=20_340) for graph in (True, False)}

    def small(*, graph=True, mpp=0.25):
        return replace(configs[graph], image=replace(configs[graph].image, mpp=mpp))

    monkeypatch.setattr(DualEncoderConfig, "published", small)
    torch.manual_seed(0)
    path, target = tmp_path / "released.pth", tmp_path / "past.safetensors"
    torch.save(container(DualEncoder(small())), path)
    table = shared_data / "vocabulary" / "nicheformer_vocab_20310.csv"
    arguments = ["import", str(path), "-o", str(target), "--vocabulary", str(table), "--mpp", "0.2738"]
    build_app()(arguments, standalone_mode=False)
    assert "PASTModelGraph" in capsys.readouterr().out
    encoder = load_image_encoder(str(target))
    assert (encoder.mpp, encoder.mean) == (0.2738, (0.485, 0.456, 0.406))
    cells = load_cell_encoder(str(target))
    assert len(cells.vocabulary) == 20_310
    counts = sparse.csr_matrix(([5.0, 2.0], ([0, 0], [8745, 6070])), shape=(1, 20_310))
    assert cells(counts, cells.vocabulary.genes).isfinite().all()
    with pytest.raises(PastError, match="exists already"):
        build_app()(arguments, standalone_mode=False)
