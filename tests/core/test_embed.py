"""`past embed`: cells and tiles against the encoder called by hand, sheets, resuming, bad input."""

import json
import shutil
import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pytest
import tifffile
import timm
import torch
from made_models import made_checkpoint
from made_slides import made_slide
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

from past_core.checkpoint import load_checkpoint, save_checkpoint
from past_core.cli import build_app
from past_core.data.supply import PatchSpec, RegionSupply, SlideSource
from past_core.embed import EmbedError, embed_slide, read_manifest, write_embeddings
from past_core.embed.sheet import SheetError, SheetNotFoundError, read_sheet
from past_core.encoders import EncoderNotFoundError, load_cell_encoder, load_encoders, load_image_encoder
from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store
from past_core.slides import open_slide, patches, tile_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("embed")


@pytest.fixture(scope="module")
def checkpoint(folder):
    return save_checkpoint(made_checkpoint(), folder / "encoder.safetensors")


@pytest.fixture(scope="module")
def store(folder):
    slide = made_slide(n_cells=80)
    counts = slide.table.X.toarray()
    counts[0] = 0  # fails quality control
    counts[1] = 0
    counts[1, 11] = 3  # passes it, but its only gene has no mean
    slide.table.X = csr_matrix(counts)
    return write_store(slide, folder / "made.zarr", block_size=256)


@pytest.fixture(scope="module")
def image(folder):
    rng = np.random.default_rng(0)
    pixels = np.full((300, 400, 3), 244) + rng.normal(0, 2, (300, 400, 3))
    pixels[60:240, 80:320] = np.array([190, 110, 160]) + rng.normal(0, 20, (180, 240, 3))
    path = folder / "tissue.tif"
    tifffile.imwrite(path, pixels.clip(0, 255).astype(np.uint8), photometric="rgb", tile=(64, 64))
    return path


def past(*arguments):
    return CliRunner().invoke(build_app(), ["embed", *map(str, arguments)], catch_exceptions=True)


def test_cells_of_a_store(store, checkpoint):
    table = embed_slide(store, *load_encoders(checkpoint), batch_size=7)
    opened = SlideStore(store)
    rows = np.flatnonzero(opened.passed)
    assert 0 < len(rows) < opened.n_cells
    assert list(table.obs_names) == list(opened.cell_ids[rows])
    # Through `open_slide` a store is a slide like any other.
    with open_slide(store) as slide:
        assert (slide.mpp, slide.name) == (0.25, "made")
        pixels = made_slide(n_cells=80).image
        np.testing.assert_array_equal(slide.read(0, 100, 250, 300, 400), pixels[:, 100:400, 250:650])
    np.testing.assert_array_equal(table.obsm["spatial"], opened.centroids[rows])
    with open_slide(store) as slide:
        encoder = load_image_encoder(checkpoint)
        want = encoder(patches(slide, opened.centroids[rows], mpp=0.5, size=32)).numpy()
    np.testing.assert_allclose(table.obsm["past_image"], want, atol=1e-5)
    # The store's neighbours are those of its passing cells' coordinates.
    cells = load_cell_encoder(checkpoint)
    want = cells(opened.counts[rows], list(opened.genes.index), opened.centroids[rows] * opened.mpp).numpy()
    np.testing.assert_allclose(table.obsm["past_cell"], want, atol=1e-5)
    unknown = ~table.obs["past_cell"].to_numpy()
    assert unknown.sum() == 1
    assert np.isnan(table.obsm["past_cell"][unknown]).all()
    assert np.isfinite(table.obsm["past_cell"][~unknown]).all()
    manifest = table.uns["past"]
    assert manifest["kind"] == "cells"
    assert manifest["slide"] == "made"
    assert manifest["fingerprint"] == encoder.fingerprint
    assert manifest["cell_fingerprint"] == cells.fingerprint
    assert manifest["left_out"] == opened.n_cells - len(rows)
    assert "demo" not in manifest


def test_embeddings_are_those_of_training(store, checkpoint):
    """Patches, tokens and neighbourhoods are the ones that the supply makes for training."""
    loaded, opened = load_checkpoint(checkpoint), SlideStore(store)
    table = embed_slide(store, *load_encoders(checkpoint, "joint"), batch_size=200)
    source = SlideSource(
        opened,
        spec=PatchSpec(mpp=0.5, size=32),
        vocabulary=loaded.vocabulary,
        gene_means=loaded.gene_means,
        max_genes=8,
    )
    supply = RegionSupply([source])
    rows = np.flatnonzero(opened.passed)
    block = np.searchsorted(opened.blocks[:, 2], rows, side="right") - 1
    batch = supply.batch(np.stack([np.zeros_like(rows), block, rows], axis=1))
    supply.close()
    with torch.no_grad():
        out = loaded.model(batch.images, batch.tokens, batch.centres, batch.neighbors, batch.distances)
    known = table.obs["past_cell"].to_numpy()
    np.testing.assert_allclose(table.obsm["past_image"], out.image.numpy(), atol=1e-6)
    np.testing.assert_allclose(table.obsm["past_cell"][known], out.cell.numpy()[known], atol=1e-6)


@pytest.mark.parametrize("sides", ["image", "cell", "both"])
def test_sides(store, checkpoint, sides):
    table = embed_slide(store, *load_encoders(checkpoint, "joint"), sides=sides)
    keys = {"image": {"past_image"}, "cell": {"past_cell"}, "both": {"past_image", "past_cell"}}[sides]
    assert set(table.obsm) == keys | {"spatial"}
    for key in keys:
        norm = np.linalg.norm(table.obsm[key], axis=1)
        np.testing.assert_allclose(norm[np.isfinite(norm)], 1, atol=1e-5)


def test_tiles_of_an_image(image, checkpoint):
    encoder = load_image_encoder(checkpoint)
    steps = []
    table = embed_slide(image, encoder, mpp=0.5, batch_size=10, progress=lambda *step: steps.append(step))
    with open_slide(image, mpp=0.5) as slide:
        grid = tile_grid(slide, tile_um=16)
        want = encoder(patches(slide, grid.centres, mpp=0.5, size=32)).numpy()
    np.testing.assert_allclose(table.obsm["past_image"], want, atol=1e-5)
    np.testing.assert_array_equal(table.obsm["spatial"], grid.centres)
    np.testing.assert_allclose(table.obs[["x_um", "y_um"]], grid.centres * 0.5)
    assert table.obs_names[0] == f"{table.obs['row'].iloc[0]}_{table.obs['column'].iloc[0]}"
    assert sum(done for done, _ in steps) == steps[0][1] == table.n_obs
    assert table.uns["past"]["tile_um"] == 16
    sparse = embed_slide(image, encoder, mpp=0.5, tile_um=32)
    assert 0 < sparse.n_obs < table.n_obs / 2


def test_a_real_svs(shared_data, checkpoint):
    path = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    table = embed_slide(path, load_image_encoder(checkpoint), tile_um=64)
    assert 150 < table.n_obs < 300
    assert np.isfinite(table.obsm["past_image"]).all()
    assert table.uns["past"]["slide_mpp"] == 0.499
    # Neighbouring tissue looks alike: features vary less between adjacent tiles than between any two.
    features, place = table.obsm["past_image"], table.obs[["row", "column"]].to_numpy()
    near = np.abs(place[:, None] - place[None]).sum(axis=2) == 1
    apart = np.linalg.norm(features[:, None] - features[None], axis=2)
    assert apart[near].mean() < 0.9 * apart.mean()


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_written_whole_and_read_back(store, checkpoint, tmp_path, suffix):
    table = embed_slide(store, *load_encoders(checkpoint))
    path = write_embeddings(table, tmp_path / f"x{suffix}")
    back = ad.read_h5ad(path) if suffix == ".h5ad" else ad.read_zarr(path)
    np.testing.assert_array_equal(back.obsm["past_image"], table.obsm["past_image"])
    assert read_manifest(path) == table.uns["past"]
    with pytest.raises(EmbedError, match="--overwrite"):
        write_embeddings(table, path)
    write_embeddings(table[:5].copy(), path, overwrite=True)
    assert (ad.read_h5ad(path) if suffix == ".h5ad" else ad.read_zarr(path)).n_obs == 5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_what_was_there(store, checkpoint, tmp_path):
    table = embed_slide(store, load_image_encoder(checkpoint), sides="image")
    path = write_embeddings(table, tmp_path / "x.h5ad")
    before = path.read_bytes()
    table.uns["bad"] = object()
    with pytest.raises(Exception, match="object"):
        write_embeddings(table, path, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5ad"]


def test_what_does_not_go_together(store, image, checkpoint, caplog):
    encoders = load_encoders(checkpoint)
    with pytest.raises(EmbedError, match="--tile-um"):
        embed_slide(store, *encoders, tile_um=50)
    with pytest.raises(EmbedError, match="no counts"):
        embed_slide(image, *encoders, mpp=0.5, sides="both")
    with pytest.raises(EmbedError, match="images only"):
        embed_slide(store, encoders[0], None, sides="both")
    with pytest.raises(Exception, match="--mpp"):
        embed_slide(image, *encoders)
    with pytest.raises(Exception, match="ingest again"):
        embed_slide(store, *encoders, mpp=0.3)


def test_a_vocabulary_without_overlap(store, folder, caplog):
    other = made_checkpoint(n_genes=5)
    object.__setattr__(other, "vocabulary", type(other.vocabulary).from_panel(f"X{k}" for k in range(5)))
    path = save_checkpoint(other, folder / "other.safetensors")
    table = embed_slide(store, *load_encoders(path))
    assert "past_cell" not in table.obsm
    assert "image side only" in caplog.text
    with pytest.raises(Exception, match="none of the 12 genes"):
        embed_slide(store, *load_encoders(path), sides="cell")


def test_nan_from_an_encoder_is_an_error(image, checkpoint):
    encoder = load_image_encoder(checkpoint)
    with torch.no_grad():
        encoder._encoder.model.norm.weight.fill_(torch.nan)
    with pytest.raises(EmbedError, match="NaN"):
        embed_slide(image, encoder, mpp=0.5)


def test_verb(store, image, checkpoint, tmp_path):
    result = past(
        store, "--encoder", checkpoint, "-o", tmp_path / "a.zarr", "--space", "joint", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert ad.read_zarr(tmp_path / "a.zarr").obsm["past_cell"].shape[1] == 8
    arguments = (image, "-c", checkpoint, "-o", tmp_path / "a.h5ad", "--mpp", 0.5, "--tile-um", 30)
    assert past(*arguments).exit_code == 0
    again = past(*arguments)
    assert isinstance(again.exception, EmbedError)
    assert past(*arguments, "--overwrite").exit_code == 0
    assert isinstance(
        past(image, "-c", checkpoint, "-o", tmp_path / "a.csv", "--mpp", 0.5).exception, EmbedError
    )


def test_verb_with_a_public_encoder(image, tmp_path, monkeypatch):
    monkeypatch.setenv("PAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "weights.bin")
    arguments = (image, "-c", "timm:resnet18", "--mpp", 0.5, "--weights", tmp_path / "weights.bin")
    assert past(*arguments, "-o", tmp_path / "a.h5ad").exit_code == 0
    assert past(*arguments, "-o", tmp_path / "b.h5ad", "--precision", "bf16").exit_code == 0
    exact, rough = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in "ab")
    assert exact.obsm["past_image"].shape[1] == 512
    assert (exact.uns["past"]["precision"], rough.uns["past"]["precision"]) == ("32", "bf16")
    difference = np.abs(exact.obsm["past_image"] - rough.obsm["past_image"]).max()
    assert 0 < difference < 0.05 * np.abs(exact.obsm["past_image"]).max()
    assert isinstance(past(*arguments[:-2], "-o", tmp_path / "c.h5ad").exception, EncoderNotFoundError)
    assert not (tmp_path / "c.h5ad").exists()


def test_errors_are_one_message_without_a_traceback(past, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.tif").write_bytes(b"no pixels here")
    for source, message in (("no.svs", "no such slide"), ("bad.tif", "not an image")):
        status, _, said = past("embed", source, "-c", checkpoint, "-o", "x.h5ad")
        assert status == 1
        assert message in said
        assert "Traceback" not in said
        assert not (tmp_path / "x.h5ad").exists()


def test_demo_is_stamped(image, checkpoint, tmp_path):
    from past_core.checkpoint import export_checkpoint

    demo = export_checkpoint(checkpoint, tmp_path / "d.safetensors", demo=True)
    result = past(image, "-c", demo, "-o", tmp_path / "a.h5ad", "--mpp", 0.5)
    assert result.exit_code == 0
    assert "synthetic" in result.output
    assert "synthetic" in read_manifest(tmp_path / "a.h5ad")["demo"]


@pytest.mark.slow
def test_inference_never_imports_lightning_or_spatialdata(store, checkpoint, tmp_path):
    code = (
        "import sys, json; from past_core.cli import build_app; "
        f"sys.argv = ['past', 'embed', {str(store)!r}, '-c', {str(checkpoint)!r}, '-o', 'x.h5ad']; "
        "build_app()(standalone_mode=False); "
        "heavy = ('lightning', 'pytorch_lightning', 'spatialdata', 'scanpy', 'tensorflow'); "
        "print(json.dumps([m for m in heavy if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert (tmp_path / "x.h5ad").exists()


# --- sheets -------------------------------------------------------------------------------------------------


@pytest.fixture
def sheet(image, store, tmp_path):
    shutil.copy(image, tmp_path / "one.tif")
    (tmp_path / "bad.svs").write_bytes(b"II*\0")
    rows = [
        "path,name,mpp,output",
        "one.tif,,0.5,",
        f"{store},cells,,",
        "bad.svs,,0.5,",
        "missing.tif,,,",
        "one.tif,again,zero,",
        "one.tif,third,0.5,third.zarr",
    ]
    (tmp_path / "sheet.csv").write_text("\n".join(rows))
    return tmp_path / "sheet.csv"


def test_a_sheet_does_what_it_can_and_resumes(sheet, checkpoint):
    out = sheet.parent / "out"
    result = past(sheet, "-c", checkpoint, "-o", out)
    assert result.exit_code == 1
    assert "3 done, 0 skipped, 3 failed" in result.output
    text = " ".join(result.output.split())
    for message in ("row 4: ", "row 5: ", "row 6: mpp 'zero'"):
        assert message in text
    assert sorted(p.name for p in out.iterdir()) == ["cells.h5ad", "one.h5ad", "third.zarr"]
    times = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = past(sheet, "-c", checkpoint, "-o", out)
    assert "0 done, 3 skipped, 3 failed" in again.output
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == times
    (out / "one.h5ad").unlink()
    assert "1 done, 2 skipped, 3 failed" in past(sheet, "-c", checkpoint, "-o", out).output


def test_outputs_of_another_encoder_or_setting_are_not_taken_for_complete(sheet, checkpoint, folder):
    out = sheet.parent / "out"
    past(sheet, "-c", checkpoint, "-o", out)
    other = save_checkpoint(made_checkpoint(seed=5), folder / "seed5.safetensors", overwrite=True)
    for changed in (
        ("-c", other),
        ("-c", checkpoint, "--space", "joint"),
        ("-c", checkpoint, "--tile-um", 40),
    ):
        result = past(sheet, *changed, "-o", out)
        assert result.exit_code == 1
        assert "made with another" in " ".join(result.output.split())
    assert "3 done, 0 skipped" in past(sheet, "-c", other, "-o", out, "--overwrite").output


def test_a_truncated_output_is_an_error_of_its_row(sheet, checkpoint):
    out = sheet.parent / "out"
    past(sheet, "-c", checkpoint, "-o", out)
    whole = (out / "one.h5ad").read_bytes()
    (out / "one.h5ad").write_bytes(whole[:3000])
    result = past(sheet, "-c", checkpoint, "-o", out)
    assert "0 done, 2 skipped, 4 failed" in result.output
    assert "holds no embeddings" in " ".join(result.output.split())


def test_sheets_that_cannot_be_read(tmp_path):
    with pytest.raises(SheetNotFoundError):
        read_sheet(tmp_path / "no.csv", tmp_path)
    cases = {
        "": "not a sheet",
        "path\n": "no rows",
        "slide,mpp\na,1\n": "no column 'path'",
        "path,name\na.tif,x\nb.tif,x\n": "rows 2 and 3",
        'path\n"unclosed\n': "not a sheet",
    }
    for content, message in cases.items():
        (tmp_path / "s.csv").write_text(content)
        with pytest.raises(SheetError, match=message):
            read_sheet(tmp_path / "s.csv", tmp_path / "out")


def test_sheet_rows(tmp_path, caplog):
    (tmp_path / "s.csv").write_text(
        "path,output,colour\na/b.ome.tif,,red\n\n,,blue\nc.svs,../../x.h5ad,\nd.svs,x.csv,\n"
    )
    rows = read_sheet(tmp_path / "s.csv", tmp_path / "out")
    assert [row.line for row in rows] == [2, 4, 5, 6]
    assert rows[0].path == tmp_path / "a" / "b.ome.tif"
    assert rows[0].output == tmp_path / "out" / "b.h5ad"
    assert rows[0].problem is None
    assert "empty" in rows[1].problem
    assert "outside" in rows[2].problem
    assert "should end in" in rows[3].problem
    assert "colour" in caplog.text


def test_manifest_of_foreign_files(tmp_path):
    assert read_manifest(tmp_path / "no.h5ad") is None
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["x"] = 1
    with pytest.raises(EmbedError, match="holds no embeddings"):
        read_manifest(tmp_path / "a.h5ad")
