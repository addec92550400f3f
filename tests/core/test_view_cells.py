"""What the view tells of cells and genes, against numpy and shapely."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import shapely
from made_view import view_slide

from past_core.ingest.store import SlideStore
from past_core.ingest.write import SlideData, write_store
from past_core.view.cells import CellNotFoundError, Cells, GeneNotFoundError


@pytest.fixture(scope="module")
def slide() -> SlideData:
    return view_slide()


@pytest.fixture(scope="module")
def store(slide: SlideData, tmp_path_factory: pytest.TempPathFactory) -> SlideStore:
    return SlideStore(write_store(slide, tmp_path_factory.mktemp("view") / "s.zarr", block_size=400))


@pytest.fixture(scope="module")
def cells(store: SlideStore) -> Cells:
    return Cells(store)


def test_the_cell_at_a_point_is_the_one_around_it(slide: SlideData, store: SlideStore, cells: Cells) -> None:
    # A hole belongs to the cell that surrounds it.
    parts = [
        (name, shapely.Polygon(part.exterior))
        for name, shape in slide.cell_boundaries.geometry.items()
        for part in getattr(shape, "geoms", [shape])
    ]
    tree, hits = shapely.STRtree([part for _, part in parts]), 0
    for x, y in np.random.default_rng(1).uniform(0, 1300, (300, 2)):
        around = [parts[k][0] for k in tree.query(shapely.Point(x, y), predicate="within")]
        row = cells.at(x, y)
        assert (None if row is None else store.cell_ids[row]) == (around[0] if around else None)
        hits += row is not None
    assert hits > 50


def test_of_cells_that_overlap_the_nearer_is_taken(store: SlideStore) -> None:
    from past_core.view.outlines import Outlines

    cells = Cells(store)
    corners = np.array([[-40, -40], [40, -40], [40, 40], [-40, 40]], np.float32)
    vertices = (store.centroids[:, None] + corners).reshape(-1, 2).astype(np.float32)
    number = store.n_cells
    cells.__dict__["_cell_outlines"] = Outlines(np.arange(number), np.arange(number + 1) * 4, vertices)
    for x, y in np.random.default_rng(1).uniform(100, 900, (50, 2)):
        assert cells.at(x, y) == np.argmin(np.hypot(*(store.centroids - [x, y]).T))


def test_a_cell_is_described(slide: SlideData, store: SlideStore, cells: Cells) -> None:
    name = slide.table.obs_names[7]
    row = cells.find(name)
    cell = cells.describe(row)
    counts = slide.table.X.toarray()[7]
    assert cell["id"] == name == store.cell_ids[row]
    assert (cell["counts"], cell["genes"]) == (counts.sum(), np.count_nonzero(counts))
    order = sorted(range(len(counts)), key=lambda gene: (-counts[gene], gene))[:10]
    assert cell["top_genes"] == [{"symbol": f"G{g}", "count": int(counts[g])} for g in order if counts[g]]
    np.testing.assert_allclose([cell["x_um"], cell["y_um"]], slide.table.obsm["spatial"][7] * 0.5)
    assert cell["cell_area_um2"] == pytest.approx(slide.table.obs["cell_area_um2"].iloc[7])
    assert cell["passed"]
    assert cell["reasons"] == []
    assert cell["more"] == {"cell_type": "b"}
    [ring] = cell["outlines"]["cell"]
    exact = np.asarray(slide.cell_boundaries.geometry.loc[name].exterior.coords)
    np.testing.assert_allclose(ring, exact, atol=0.01)
    assert len(cell["outlines"]["nucleus"]) == 1
    json.dumps(cell, allow_nan=False)


def test_an_empty_cell_is_described(slide: SlideData, cells: Cells) -> None:
    cell = cells.describe(cells.find(slide.table.obs_names[0]))
    assert (cell["counts"], cell["genes"], cell["top_genes"]) == (0, 0, [])
    assert not cell["passed"]
    assert cell["reasons"] == ["no_genes"]
    assert cell["nucleus_area_um2"] is None  # missing, as JSON has no nan


def test_reasons_are_counted_each(store: SlideStore) -> None:
    changed = SlideStore(store.path)
    obs = store.obs.copy()
    reason = np.full(len(obs), "", dtype=object)
    reason[:3], reason[3:5], reason[5] = "low_counts;border", "border", "no_genes"
    obs["qc_reason"] = pd.Categorical(reason)
    obs["qc_pass"] = reason == ""
    obs.loc[obs.index[9], "qc_pass"] = False  # failed, and nobody says why
    changed.__dict__["obs"] = obs
    cells = Cells(changed)
    assert cells.reasons == [("border", 5), ("low_counts", 3), ("no_genes", 1), ("no reason given", 1)]
    assert cells.reason[:10].tolist() == [1, 1, 1, 0, 0, 2, -1, -1, -1, 3]
    assert (cells.reason[10:] == -1).all()


def test_expression_is_log1p_of_counts_per_ten_thousand(store: SlideStore, cells: Cells) -> None:
    counts = store.counts.toarray().astype(float)
    for number in (0, 4, 29):
        gene = cells.gene(number)
        expected = np.log1p(1e4 * counts[:, number] / np.maximum(counts.sum(axis=1), 1))
        np.testing.assert_allclose(gene.values, expected, rtol=1e-5)
        assert gene.expressing == np.count_nonzero(counts[:, number])
        assert gene.top == pytest.approx(np.quantile(expected[expected > 0], 0.99), rel=1e-5)


def test_a_gene_that_no_cell_has(store: SlideStore) -> None:
    changed = SlideStore(store.path)
    counts = store.counts.copy()
    counts.data[counts.indices == 3] = 0
    changed.__dict__["counts"] = counts
    gene = Cells(changed).gene(3)
    assert (gene.expressing, gene.top) == (0, 1.0)
    assert not gene.values.any()  # noqa: PD011


def test_genes_are_found_by_symbol_and_id(cells: Cells) -> None:
    assert [gene["symbol"] for gene in cells.search("g2")][:2] == ["G2", "G20"]
    assert len(cells.search("g2")) == 11
    assert cells.search("00012") == [{"id": "ENSG00000000012", "symbol": "G12"}]
    assert len(cells.search("", limit=7)) == 7
    assert cells.search("none of these") == []
    assert cells.gene_number("G5") == cells.gene_number("ENSG00000000005") == 5
    with pytest.raises(GeneNotFoundError, match="no gene 'EPCAM' in seen"):
        cells.gene_number("EPCAM")
    with pytest.raises(CellNotFoundError, match="no cell 'x'"):
        cells.find("x")


def test_threads_read_each_part_once(store: SlideStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from past_core.view import cells as module

    read = []
    original = module.read_outlines
    monkeypatch.setattr(module, "read_outlines", lambda *a: read.append(a[1]) or original(*a))
    fresh = Cells(SlideStore(store.path))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fresh.describe(3)["id"], range(16)))
    assert set(found) == {store.cell_ids[3]}
    assert sorted(read) == ["cell_boundaries", "nucleus_boundaries"]
