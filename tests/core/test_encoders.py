"""Frozen encoders: names, fingerprints, spaces, and cells against the model called by hand."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from made_models import made_checkpoint, save_lightning
from scipy.sparse import csr_matrix

import past_core
from past_core.checkpoint import save_checkpoint
from past_core.encoders import (
    EncoderError,
    EncoderNotFoundError,
    load_cell_encoder,
    load_encoders,
    load_image_encoder,
    resolve_device,
)
from past_core.frozen_cell import Neighborhood
from past_core.models.errors import ModelError
from past_core.tokens import VocabularyError, rank_tokenize

IMAGES = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def made():
    return made_checkpoint()


@pytest.fixture(scope="module")
def path(made, tmp_path_factory):
    return save_checkpoint(made, tmp_path_factory.mktemp("encoder") / "a.safetensors")


def test_the_handle(path, made):
    encoder = past_core.load_image_encoder(path)
    assert (encoder.name, encoder.space, encoder.dim, encoder.mpp, encoder.patch_size) == (
        "a.safetensors", "features", 16, 0.5, 32,
    )  # fmt: skip
    assert encoder.mean == (0.485, 0.456, 0.406)
    assert encoder.field_um == 16
    assert not encoder.demo
    out = encoder(IMAGES)
    assert not out.requires_grad
    torch.testing.assert_close(out, made.model.encode_image(IMAGES).detach())
    torch.testing.assert_close(encoder(IMAGES.numpy()), out)
    torch.testing.assert_close(encoder(IMAGES.float()), out)
    torch.nn.Linear(16, 1)(out).sum().backward()  # a probe on top may train
    with pytest.raises(ModelError, match="32"):
        encoder(IMAGES[:, :, :16])


def test_joint_space_is_of_unit_vectors(path, made):
    encoder = load_image_encoder(path, space="joint")
    out = encoder(IMAGES)
    assert encoder.dim == out.shape[1] == 8
    torch.testing.assert_close(out.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(out, made.model.encode_image(IMAGES, space="joint").detach())


def test_embeddings_do_not_depend_on_the_batch(path):
    encoder = load_image_encoder(path)
    torch.testing.assert_close(torch.cat([encoder(IMAGES[:2]), encoder(IMAGES[2:])]), encoder(IMAGES))


def test_fingerprint_is_of_weights_and_preprocessing(path, made, tmp_path):
    encoder = load_image_encoder(path)
    ckpt = save_lightning(made, tmp_path / "b.ckpt")
    assert encoder.fingerprint == load_image_encoder(ckpt).fingerprint  # another container, another name
    other_cells = made_checkpoint(seed=0)
    with torch.no_grad():
        other_cells.model.cell_encoder.embeddings.weight[40] += 1
    prints = {encoder.fingerprint, load_image_encoder(path, space="joint").fingerprint}
    for k, changed in enumerate([other_cells, made_checkpoint(seed=1), made_checkpoint(mpp=0.4)]):
        saved = save_checkpoint(changed, tmp_path / f"{k}.safetensors")
        prints.add(load_image_encoder(saved).fingerprint)
    assert len(prints) == 4  # the cell side does not change the image side's
    cells = {load_cell_encoder(p).fingerprint for p in (path, tmp_path / "0.safetensors")}
    assert len(cells) == 2


def test_fingerprint_never_changes_by_itself(tmp_path):
    """Caches of other versions and machines are found by it; weights are exact binary fractions."""
    made = made_checkpoint()
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.copy_((torch.arange(parameter.numel()) % 64 / 64).view(parameter.shape))
    path = save_checkpoint(made, tmp_path / "a.safetensors")
    assert load_image_encoder(path).fingerprint[:16] == "7e50a636bed286ed"
    assert load_image_encoder(path, "joint").fingerprint[:16] == "59a9b646b5b5cb20"


def test_fingerprint_is_the_same_after_moving(path):
    encoder = load_image_encoder(path)
    before = encoder.fingerprint
    device = next((d for d in ("cuda", "mps") if getattr(torch, d).is_available()), "cpu")
    moved = load_image_encoder(path).to(device)
    assert moved.fingerprint == before
    torch.testing.assert_close(moved(IMAGES).cpu(), encoder(IMAGES), atol=1e-4, rtol=1e-4)


def test_timm_weights_from_a_file(tmp_path, monkeypatch):
    """A small stand-in: its own file, its normalisation, its pooled features."""
    monkeypatch.setenv("PAST_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=1000).eval()
    torch.save(model.state_dict(), tmp_path / "weights" / "resnet18.a1_in1k.pth")
    encoder = load_image_encoder("timm:resnet18.a1_in1k")
    assert (encoder.dim, encoder.patch_size, encoder.name) == (512, 224, "timm:resnet18.a1_in1k")
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.mean, encoder.std))
    with torch.no_grad():
        want = model.global_pool(model.forward_features((images / 255 - mean) / std))
    torch.testing.assert_close(encoder(images), want, atol=1e-4, rtol=1e-4)
    explicit = load_image_encoder("timm:resnet18", weights=tmp_path / "weights" / "resnet18.a1_in1k.pth")
    assert explicit.dim == 512
    with pytest.raises(EncoderError, match="joint"):
        load_image_encoder("timm:resnet18.a1_in1k", space="joint")
    (tmp_path / "weights" / "resnet50.pth").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="resnet50"):
        load_image_encoder("resnet50")


def test_the_demo_comes_with_the_package(path, tmp_path, monkeypatch):
    monkeypatch.setattr("past_core.checkpoint.places.files", lambda _: tmp_path)
    with pytest.raises(EncoderNotFoundError, match="holds no demo encoder"):
        load_image_encoder("demo")
    (tmp_path / "assets").mkdir()
    shutil.copy(path, tmp_path / "assets" / "demo.safetensors")
    image, cell = load_encoders("demo")
    assert (image.name, image.demo, cell.demo) == ("demo", True, True)
    assert image.fingerprint == load_image_encoder(path).fingerprint


def test_unknown_names(tmp_path):
    with pytest.raises(EncoderError, match="demo, uni"):
        load_image_encoder("unni")
    with pytest.raises(EncoderNotFoundError, match="no such checkpoint"):
        load_image_encoder(tmp_path / "no.ckpt")
    with pytest.raises(ModelError, match="did you mean"):
        load_image_encoder("timm:resnet5O")
    with pytest.raises(EncoderError, match="joint"):
        load_image_encoder("demo", space="both")
    for name in ("uni", "plip", "timm:resnet18"):
        with pytest.raises(EncoderError, match="images only"):
            load_cell_encoder(name)


def counts_of(n=30, genes=12, seed=0):
    rng = np.random.default_rng(seed)
    counts = csr_matrix(rng.poisson(1.0, (n, genes)).astype(np.int32))
    return counts, [f"ENSG{k:011d}" for k in range(genes)], rng.uniform(0, 60, (n, 2))


@pytest.mark.parametrize("space", ["features", "joint"])
def test_cells_equal_the_model_called_by_hand(path, made, space):
    counts, genes, points = counts_of()
    encoder = load_cell_encoder(path, space=space)
    got = encoder(counts, genes, points, batch_size=7)
    # By hand, all at once: brute-force neighbours, one token table, the model itself.
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :8]
    length = np.take_along_axis(distance, near, axis=1)
    index = made.vocabulary.lookup(genes)
    context = made.vocabulary.context("xenium", "human", "spatial")
    tokens, _ = rank_tokenize(counts, index, made.gene_means, context, max_genes=8)
    with torch.no_grad():
        want = made.model.encode_cell(
            torch.from_numpy(tokens).long(),
            torch.arange(len(points)),
            torch.from_numpy(near),
            torch.from_numpy(length / np.median(length)).float(),
            space=space,
        )
    assert got.shape == (30, 16 if space == "features" else 8)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_cells_some_rows_with_known_neighbours(path):
    counts, genes, points = counts_of()
    encoder = load_cell_encoder(path)
    rows = np.array([3, 17, 5])
    whole = encoder(counts, genes, points)
    near = Neighborhood.from_coordinates(points)
    done = []
    some = encoder(counts, genes, neighborhood=near, rows=rows, batch_size=2, progress=done.append)
    torch.testing.assert_close(some, whole[rows])
    assert done == [2, 1]


def test_gene_order_does_not_matter_and_the_neighbourhood_does(path):
    counts, genes, points = counts_of()
    encoder = load_cell_encoder(path)
    order = np.random.default_rng(1).permutation(len(genes))
    shuffled = encoder(counts[:, order], [genes[k] for k in order], points)
    torch.testing.assert_close(shuffled, encoder(counts, genes, points))
    alone = encoder(counts, genes)
    assert not torch.allclose(alone, encoder(counts, genes, points), atol=1e-3)


def test_a_cell_without_known_genes_is_nan_and_only_that(path):
    counts, genes, points = counts_of()
    dense = counts.toarray()
    dense[4] = 0
    dense[9] = 0
    dense[9, 11] = 5  # counted, but without a mean
    out = load_cell_encoder(path)(csr_matrix(dense), genes, points)
    missing = torch.isnan(out).any(dim=1)
    empty = {k for k in range(30) if dense[k, :11].sum() == 0}
    assert set(torch.nonzero(missing).ravel().tolist()) == empty
    assert {4, 9} <= empty


def test_cells_refuse(path):
    counts, genes, points = counts_of()
    encoder = load_cell_encoder(path)
    with pytest.raises(VocabularyError, match="none of the 12 genes"):
        encoder(counts, [f"Gene{k}" for k in range(12)], points)
    with pytest.raises(VocabularyError, match="assay"):
        encoder(counts, genes, points, assay="telescope")
    with pytest.raises(EncoderError, match="coordinates"):
        encoder(counts, genes, points[:5])
    with pytest.raises(EncoderError, match="neighbours"):
        encoder(counts, genes, neighborhood=Neighborhood.from_coordinates(points[:5]))


def test_both_from_one_reading(path, tmp_path, monkeypatch):
    image, cell = load_encoders(path, "joint")
    assert image.fingerprint == load_image_encoder(path, "joint").fingerprint
    assert cell.fingerprint == load_cell_encoder(path, "joint").fingerprint
    monkeypatch.setenv("PAST_CACHE", str(tmp_path))
    with pytest.raises(EncoderNotFoundError):
        load_encoders("uni")


def test_precision(path):
    exact = load_image_encoder(path)(IMAGES)
    encoder = load_image_encoder(path).to("cpu", "bf16")
    got = encoder(IMAGES)
    assert got.dtype == torch.float32
    assert 1e-6 < (got - exact).abs().max() < 0.1 * exact.abs().max()
    assert encoder.fingerprint == load_image_encoder(path).fingerprint  # of the weights, which are the same
    torch.testing.assert_close(encoder.to("cpu", "32")(IMAGES), exact)
    with pytest.raises(EncoderError, match="accelerators"):
        encoder.to("cpu", "fp16")
    with pytest.raises(EncoderError, match="expected 32, bf16, fp16"):
        encoder.to("cpu", "8")


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(EncoderError, match="no device"):
        resolve_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(EncoderError, match="not available"):
            resolve_device("cuda:0")


def test_importing_the_package_imports_no_torch():
    code = "import sys, past_core; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        past_core.nothing  # noqa: B018
