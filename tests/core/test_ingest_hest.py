"""AnnData with an image: positions, order of x and y, pixel size, genes, refusals."""

import json
import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image

from past_core.errors import PastError
from past_core.ingest.checks import SlideDataError
from past_core.ingest.hest import HestError, HestNotFoundError, read_hest
from past_core.ingest.orthologs import GeneTableError
from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store
from past_core.slides import SlideError, SlideNotFoundError

SYMBOLS = ["EPCAM", "CD3E", "ACTA2", "TNF", "NegControlProbe_1"]


def picture(path, *, width=400, height=300, tissue=lambda _x, _y: True):
    """White glass with eosin-coloured tissue where `tissue(x, y)` says so."""
    y, x = np.mgrid[:height, :width]
    inside = np.broadcast_to(tissue(x, y), (height, width))
    rgb = np.full((height, width, 3), 245, np.uint8)
    rgb[inside] = (200, 120, 170)
    Image.fromarray(rgb).save(path)
    return path


def cells(n=50, *, width=400, height=300, seed=0):
    """(N, 2) x, y in the image and an AnnData without positions."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform((0, 0), (width, height), (n, 2))
    counts = rng.poisson(3, (n, len(SYMBOLS))) + 1
    return xy, AnnData(
        counts.astype(np.float32),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=SYMBOLS),
    )


@pytest.fixture
def standard(tmp_path):
    """The layout of HEST-1k: obsm["spatial"], and the pixel size in a JSON file."""
    xy, table = cells()
    table.obsm["spatial"] = xy
    (tmp_path / "st").mkdir()
    (tmp_path / "metadata").mkdir()
    table.write_h5ad(tmp_path / "st" / "S1.h5ad")
    (tmp_path / "metadata" / "S1.json").write_text(json.dumps({"pixel_size_um_estimated": 0.4}))
    return tmp_path / "st" / "S1.h5ad", picture(tmp_path / "S1.png"), xy, table


def test_standard_layout_to_a_store(standard, tmp_path):
    h5ad, he, xy, table = standard
    data = read_hest(h5ad, he)
    assert data.mpp == 0.4
    assert data.name == "S1"
    store = SlideStore(write_store(data, tmp_path / "s.zarr"))
    row = table.obs_names.get_indexer(store.cell_ids)
    np.testing.assert_allclose(store.centroids, xy[row])
    np.testing.assert_array_equal(store.counts.toarray(), table.X[row, :4])
    assert list(store.genes["symbol"]) == SYMBOLS[:4]
    assert store.genes.index[0] == "ENSG00000119888"
    np.testing.assert_array_equal(
        store.read(0, 0, 0, 300, 400), np.asarray(Image.open(he)).transpose(2, 0, 1)
    )
    assert sorted(store.manifest["sources"]) == ["S1.h5ad", "S1.png"]
    assert store.manifest["report"]["genes"]["controls_dropped"] == 1
    assert store.manifest["report"]["positions"]["swap_xy"] is False


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("columns", [("pxl_col_in_fullres", "pxl_row_in_fullres"), ("x_pixel", "y_pixel")])
def test_order_is_told_by_the_image(tmp_path, caplog, columns, swapped):
    xy, table = cells()
    table.obs[list(columns)] = xy[:, ::-1] if swapped else xy
    table.write_h5ad(tmp_path / "a.h5ad")
    he = picture(tmp_path / "a.png")
    data = read_hest(tmp_path / "a.h5ad", he, mpp=0.5)
    np.testing.assert_allclose(data.table.obsm["spatial"], xy)
    decision = data.report["positions"]
    assert decision["swap_xy"] is swapped
    assert decision["decided_by"] == "image"
    assert ("is the row" in caplog.text) is swapped


@pytest.mark.parametrize("swapped", [False, True])
def test_order_is_told_by_the_tissue_of_a_square_image(tmp_path, swapped):
    """Tissue on the right half only: cells lie there, and both orders are inside the image."""
    xy, table = cells(width=200, height=400, seed=1)
    xy[:, 0] += 200
    table.obsm["spatial"] = xy[:, ::-1].copy() if swapped else xy
    table.write_h5ad(tmp_path / "a.h5ad")
    he = picture(tmp_path / "a.png", width=400, height=400, tissue=lambda x, _y: x >= 200)
    data = read_hest(tmp_path / "a.h5ad", he, mpp=0.5)
    np.testing.assert_allclose(data.table.obsm["spatial"], xy)
    decision = data.report["positions"]
    assert (decision["decided_by"], decision["swap_xy"]) == ("tissue", swapped)
    assert max(decision["on_tissue"], decision["on_tissue_swapped"]) > 0.95


def test_without_evidence_the_declared_order_stands(tmp_path):
    xy, table = cells(width=300)
    table.obsm["spatial"] = xy
    table.write_h5ad(tmp_path / "a.h5ad")
    data = read_hest(tmp_path / "a.h5ad", picture(tmp_path / "a.png", width=300), mpp=0.5)
    assert data.report["positions"]["swap_xy"] is False


@pytest.mark.parametrize("swap", [False, True])
def test_order_by_option(standard, swap):
    h5ad, he, xy, _ = standard
    data = read_hest(h5ad, he, swap_xy=swap)
    np.testing.assert_allclose(data.table.obsm["spatial"], xy[:, ::-1] if swap else xy)
    assert data.report["positions"]["decided_by"] == "option"


def test_given_pixel_size_wins_and_coarse_images_warn(standard, caplog):
    h5ad, he, _, _ = standard
    with caplog.at_level(logging.WARNING):
        assert read_hest(h5ad, he, mpp=1.0).mpp == 1.0
        assert "upsampled" not in caplog.text
        assert read_hest(h5ad, he, mpp=2.125).mpp == 2.125
    assert "upsampled 4.2 x, more than 2 x" in caplog.text


def test_spots_are_named_as_such(standard, tmp_path, caplog):
    _, he, xy, table = standard
    table.obs["array_row"] = table.obs["array_col"] = 1
    table.write_h5ad(tmp_path / "spots.h5ad")
    read_hest(tmp_path / "spots.h5ad", he, mpp=0.5)
    assert "look like spots" in caplog.text
    assert len(xy)


# --- refusals ---------------------------------------------------------------


def test_missing_files(standard, tmp_path):
    h5ad, he, _, _ = standard
    with pytest.raises(HestNotFoundError, match=r"none\.h5ad"):
        read_hest(tmp_path / "none.h5ad", he)
    with pytest.raises(SlideNotFoundError):
        read_hest(h5ad, tmp_path / "none.png")
    assert issubclass(HestNotFoundError, PastError)
    assert issubclass(HestNotFoundError, FileNotFoundError)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_truncated_h5ad(standard, tmp_path, size):
    h5ad, he, _, _ = standard
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(h5ad.read_bytes()[:size])
    with pytest.raises(HestError, match="cannot be read as AnnData"):
        read_hest(cut, he)


def test_truncated_image(standard, tmp_path):
    h5ad, he, _, _ = standard
    cut = tmp_path / "cut.png"
    cut.write_bytes(he.read_bytes()[:300])
    with pytest.raises(SlideError):
        read_hest(h5ad, cut)


def damaged(tmp_path, damage, *, positions=True):
    xy, table = cells()
    if positions:
        table.obsm["spatial"] = xy
    changed = damage(table)
    table = table if changed is None else changed
    table.write_h5ad(tmp_path / "d.h5ad")
    return read_hest(tmp_path / "d.h5ad", picture(tmp_path / "d.png"), mpp=0.5)


def set_count(value):
    def apply(table):
        table.X[3, 1] = value

    return apply


@pytest.mark.parametrize(("value", "found"), [(np.nan, "nan"), (-2.0, "-2.0"), (1.5, "1.5"), (np.inf, "inf")])
def test_counts_that_are_none(tmp_path, value, found):
    with pytest.raises(SlideDataError, match=rf"d\.h5ad: 1 counts .*{found} of gene 'CD3E' in cell 'c3'"):
        damaged(tmp_path, set_count(value))


def test_no_cells(tmp_path):
    with pytest.raises(SlideDataError, match="there are no cells"):
        damaged(tmp_path, lambda table: table[:0].copy())


def test_no_positions(tmp_path):
    with pytest.raises(HestError, match=r"has no positions: expected obsm.*found none"):
        damaged(tmp_path, lambda _table: None, positions=False)


def test_position_not_finite(tmp_path):
    def damage(table):
        table.obsm["spatial"][7, 0] = np.nan

    with pytest.raises(HestError, match=r"cell 'c7' \(row 7\) is not finite"):
        damaged(tmp_path, damage)


def test_no_known_gene(tmp_path):
    with pytest.raises(GeneTableError, match="none of its 5 genes"):
        damaged(
            tmp_path, lambda table: table.var_names.__class__ and setattr(table, "var_names", list("abcde"))
        )


def test_no_matrix(tmp_path):
    def damage(table):
        return AnnData(obs=table.obs, var=table.var, obsm={"spatial": table.obsm["spatial"]})

    with pytest.raises(HestError, match="no matrix X"):
        damaged(tmp_path, damage)


def test_cells_outside_the_image(tmp_path):
    def damage(table):
        table.obsm["spatial"] = table.obsm["spatial"] + 5000

    data = damaged(tmp_path, damage)
    with pytest.raises(SlideDataError, match="50 of 50 cells lie outside the image"):
        write_store(data, tmp_path / "s.zarr")


def test_unknown_pixel_size(standard, tmp_path):
    _, he, xy, table = standard
    table.obsm["spatial"] = xy
    table.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(HestError, match="give --mpp"):
        read_hest(tmp_path / "a.h5ad", he)


# --- the real pair ----------------------------------------------------------


def test_real_pair(shared_data, tmp_path, caplog):
    folder = shared_data / "xenium_lung_ncbi858"
    truth = anndata.read_h5ad(folder / "NCBI858.h5ad")
    data = read_hest(folder / "NCBI858.h5ad", folder / "NCBI858.jpg", mpp=2.125)
    assert "upsampled 4.2 x" in caplog.text
    assert data.report["genes"]["without_ensembl_id"] == 0
    assert data.report["positions"]["swap_xy"] is True
    store = SlideStore(write_store(data, tmp_path / "lung.zarr"))
    assert (store.n_cells, len(store.genes), store.passed.sum()) == (200, 338, 200)
    assert store.genes.index.str.fullmatch(r"ENSG\d{11}").all()
    assert store.genes.index.is_unique
    row = truth.obs_names.get_indexer(store.cell_ids)
    np.testing.assert_array_equal(store.counts.toarray(), truth.X[row])
    np.testing.assert_array_equal(store.centroids[:, 0], truth.obs["y_pixel"].iloc[row])
    np.testing.assert_array_equal(store.centroids[:, 1], truth.obs["x_pixel"].iloc[row])
    # Cells sit on tissue: darker than the slide as a whole.
    at = np.floor(store.centroids).astype(int)
    pixels = store.read(0, 0, 0, store.levels[0].height, store.levels[0].width)
    assert pixels[:, at[:, 1], at[:, 0]].mean() < pixels.mean() - 20
