"""Quality control: tests of cells against a plain loop, of images with known faults; report and verb."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_slides import made_slide
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.ingest.quality import (
    QualityOptionError,
    QualityOptions,
    assess,
    focus_scores,
    nucleus_haematoxylin,
    parse_quality,
    quality_report,
)
from past_core.ingest.quality.cells import Cells
from past_core.ingest.quality.image_tests import doublet
from past_core.ingest.quality.pixels import tiles
from past_core.ingest.quality.report import QualityReportError, check_report, write_report
from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store

MPP = 0.5


def test_words_become_options():
    options = parse_quality(["xenium", "min_counts=20", "focus=on", "border=off", "Max-Area=900"])
    assert (options.min_counts, options.focus, options.border, options.max_area) == (20, True, None, 900.0)
    assert options.min_genes == QualityOptions.xenium().min_genes
    assert parse_quality(["none"]) == parse_quality(["minimal"]) == QualityOptions()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["min_count=3"], "did you mean min_counts"),
        (["xenum"], "did you mean xenium"),
        (["min_counts=many"], "expected a whole number"),
        (["focus=maybe"], "expected on or off"),
        (["max_control_fraction=5"], "expected 0 to 1"),
        (["min_area=50", "max_area=10"], "no cell can pass"),
        (["min_area=nan"], "expected 0 to"),
        (["focus=on", "focus=off"], "twice"),
        (["xenium", "minimal"], "two presets"),
    ],
)
def test_words_that_make_no_sense_are_named(words, said):
    with pytest.raises(QualityOptionError, match=said):
        parse_quality(words)


def made_cells(seed, n=80, panel=250):
    rng = np.random.default_rng(seed)
    counts = csr_matrix(rng.poisson(rng.uniform(0, 0.12, (n, 1)), (n, panel)))
    area = rng.choice([np.nan, 5, 50, 400, 2000], n)
    obs = pd.DataFrame(
        {
            "cell_area_um2": area,
            "nucleus_area_um2": np.where(rng.random(n) < 0.2, np.nan, rng.uniform(0, 60, n)),
            "nucleus_count": rng.integers(0, 3, n),
            "negative_control_counts": rng.integers(0, 4, n),
        },
        index=[f"c{row}" for row in range(n)],
    )
    return counts, rng.uniform(-40, 440, (n, 2)), obs


def by_loop(counts, xy, obs, options, size):
    """What the docstrings say, cell by cell."""
    found = []
    for row in range(len(xy)):
        values, cell = counts[row].toarray().ravel(), obs.iloc[row]
        total, genes = values.sum(), (values > 0).sum()
        (x, y), (height, width) = xy[row], size
        edge = min(x, y, width - x, height - y) * MPP
        controls, area, nucleus = (
            cell["negative_control_counts"],
            cell["cell_area_um2"],
            cell["nucleus_area_um2"],
        )
        ratio = nucleus / area if area > 0 and nucleus > 0 else None
        tests = {
            "no_genes": total == 0,
            "outside_image": not (0 <= x < width and 0 <= y < height),
            "low_counts": total < options.min_counts,
            "low_genes": genes < min(options.min_genes, counts.shape[1] // 50),
            "control_fraction": controls > options.max_control_fraction * max(controls + total, 1),
            "cell_area": not options.min_area <= area <= options.max_area,
            "no_nucleus": cell["nucleus_count"] == 0,
            "nucleus_ratio": ratio is not None and not options.min_nucleus_ratio <= ratio <= 1,
            "near_border": 0 <= edge < options.border,
            "transcript_density": area > 0 and total / area < options.min_density,
        }
        found.append(";".join(name for name, failed in tests.items() if failed))
    return np.array(found, dtype=object)


@given(st.integers(0, 2**32 - 1))
def test_flags_are_those_of_a_loop_in_any_order_and_no_cell_is_lost(seed):
    counts, xy, obs = made_cells(seed)
    options = parse_quality(["xenium", "tissue=off", "min_density=0.05"])
    given_ = {"options": options, "size": (400, 400), "mpp": MPP}

    def run(rows):
        return assess(counts=counts[rows], xy=xy[rows], obs=obs.iloc[rows], **given_)

    every = np.arange(len(xy))
    found = run(every)
    flags = found.flags()
    assert len(flags) == len(xy)
    np.testing.assert_array_equal(
        flags["qc_reason"].astype(str), by_loop(counts, xy, obs, options, (400, 400))
    )
    shuffled = np.random.default_rng(seed).permutation(every)
    pd.testing.assert_frame_equal(
        run(shuffled).flags().astype({"qc_reason": str}),
        flags.astype({"qc_reason": str}).iloc[shuffled].reset_index(drop=True),
    )
    report = quality_report(flags)
    words = ";".join(flags["qc_reason"].astype(str)).split(";")
    assert sum(report["reasons"].values()) == sum(word != "" for word in words)
    assert report["reasons"] == {t.reason: n for t in found.tests if (n := int(t.failed.sum()))}
    assert report["passed"] == (flags["qc_reason"].astype(str) == "").sum()


def test_a_source_without_areas_skips_what_needs_them():
    counts, xy, obs = made_cells(1)
    found = assess(
        QualityOptions.xenium(), counts=counts, xy=xy, size=(400, 400), mpp=MPP, obs=obs[[]], image=None
    )
    assert set(found.skipped) == {
        "control_fraction", "cell_area", "no_nucleus", "nucleus_ratio", "outside_tissue",
    }  # fmt: skip
    assert "nucleus_count" in found.skipped["no_nucleus"]


@pytest.fixture(scope="module")
def slide(tiny_slides):
    """A synthetic slide: its H&E, its cells with a nucleus, and the outlines' own positions."""
    store = SlideStore(tiny_slides[0])
    level = store.levels[0]
    pixels = store.read(0, 0, 0, level.height, level.width)
    return pixels, store.mpp, store.centroids


def test_blur_is_found_where_it_is(slide):
    pixels, mpp, xy = slide
    half = pixels.shape[2] // 2
    blurred = pixels.copy()
    for channel in range(3):
        blurred[channel, :, half:] = gaussian_filter(pixels[channel], 2.0 / mpp)[:, half:]
    options = parse_quality(["minimal", "focus=on"])
    counts = csr_matrix(np.ones((len(xy), 1), int))
    found = assess(
        options, counts=counts, xy=xy, size=pixels.shape[1:], mpp=mpp, obs=pd.DataFrame(index=range(len(xy))),
        image=blurred,
    )  # fmt: skip
    failed = found.tests[-1].failed
    margin = 12 / mpp  # windows of 24 µm that lie on one side
    assert failed[xy[:, 0] > half + margin].mean() >= 0.9
    assert failed[xy[:, 0] < half - margin].mean() <= 0.05


def test_focus_does_not_depend_on_tiles(slide, monkeypatch):
    pixels, mpp, xy = slide
    whole = focus_scores(pixels, mpp, xy)
    monkeypatch.setattr(tiles, "__kwdefaults__", {"side": 100})
    np.testing.assert_allclose(focus_scores(pixels, mpp, xy), whole, rtol=1e-4)


def test_shifted_nuclei_have_no_haematoxylin(tiny_slides):
    import geopandas

    from past_core.ingest.quality import nuclei_of

    store = SlideStore(tiny_slides[0])
    level = store.levels[0]
    pixels = store.read(0, 0, 0, level.height, level.width)
    frame = geopandas.read_parquet(store.path / "shapes/nucleus_boundaries/shapes.parquet")
    nuclei = nuclei_of(frame, pd.Index(store.cell_ids))
    right = nucleus_haematoxylin(pixels, store.mpp, store.centroids, nuclei)
    known = np.isfinite(right.contrast)
    assert (right.contrast[known] > right.threshold(0.9)).mean() > 0.95
    assert right.figures(0.9)["separation"] > 0.95
    off = 8 / store.mpp / np.sqrt(2)
    moved = nuclei._replace(points=nuclei.points + off)
    wrong = nucleus_haematoxylin(pixels, store.mpp, store.centroids + off, moved)
    known = np.isfinite(wrong.contrast)
    assert (wrong.contrast[known] <= wrong.threshold(0.9)).mean() > 0.8
    assert wrong.figures(0.9)["separation"] < 0.65


def test_glass_is_no_tissue():
    pixels = np.full((3, 400, 800), 245, np.uint8)
    pixels[:, :, :400] = np.array([200, 120, 180])[:, None, None]
    xy = np.array([[100.0, 200.0], [420.0, 200.0], [700.0, 200.0], [900.0, 200.0]])
    found = assess(
        parse_quality(["minimal", "tissue=on", "tissue_margin=20"]), counts=csr_matrix(np.ones((4, 1), int)),
        xy=xy, size=(400, 800), mpp=MPP, obs=pd.DataFrame(index=range(4)), image=pixels,
    )  # fmt: skip
    reasons = found.flags()["qc_reason"].astype(str).tolist()
    assert reasons == ["", "", "outside_tissue", "outside_image"]


def test_store_report_and_verb(tmp_path):
    slide = made_slide(n_cells=120)
    path = write_store(
        slide, tmp_path / "s.zarr", quality=parse_quality(["xenium", "tissue=off", "border=20", "min_area=5"])
    )
    store = SlideStore(path)
    qc = store.manifest["qc"]
    assert store.n_cells == 120 == qc["cells"]
    assert qc["options"]["border"] == 20
    assert "no_nucleus" in qc["skipped"]
    assert qc["reasons"]["near_border"] == qc["tests"]["near_border"]["failed"] > 0
    page = write_report(path, tmp_path / "r.html").read_text()
    assert page.count("data:image/png") == 2
    assert "near_border" in page
    assert "no_nucleus" in page
    assert write_report(path, tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(QualityReportError, match="expected a file"):
        check_report(tmp_path / "r.pdf")

    before = sorted(item.name for item in tmp_path.iterdir())
    picture, passed, ids = store.read(0, 0, 0, 50, 50), store.passed.sum(), store.cell_ids
    words = ["qc", str(path), "--set", "border=off"]
    result = CliRunner().invoke(build_app(), words)
    assert result.exit_code == 0, result.output
    assert SlideStore(path).manifest["qc"] == qc  # nothing written without --write
    result = CliRunner().invoke(build_app(), [*words, "--write"])
    assert result.exit_code == 0, result.output
    again = SlideStore(path)
    assert again.manifest["qc"]["options"]["border"] is None
    assert again.passed.sum() > passed
    np.testing.assert_array_equal(again.cell_ids, ids)
    np.testing.assert_array_equal(again.read(0, 0, 0, 50, 50), picture)
    assert (again.neighbors[again.passed] >= 0).any(axis=1).all()
    assert sorted(item.name for item in tmp_path.iterdir()) == before

    import spatialdata

    assert spatialdata.read_zarr(path)["cells"].n_obs == 120


def test_the_minimal_store_has_the_old_manifest(tmp_path):
    store = SlideStore(write_store(made_slide(), tmp_path / "s.zarr"))
    assert set(store.manifest["qc"]) == {"cells", "passed", "reasons"}
    assert not [name for name in store.obs if name.startswith("qc_") and name not in ("qc_pass", "qc_reason")]


def test_sums_of_two_cells_are_doublets():
    rng = np.random.default_rng(0)
    types = rng.gamma(0.3, 1, (6, 200))
    types /= types.sum(axis=1, keepdims=True)
    kind = rng.integers(0, 6, 800)
    single = rng.poisson(types[kind] * 120)
    first, second = rng.choice(800, (2, 80))
    unlike = kind[first] != kind[second]
    counts = csr_matrix(np.vstack([single, single[first[unlike]] + single[second[unlike]]]))
    n = counts.shape[0]
    cells = Cells(
        counts=np.asarray(counts.sum(axis=1)).ravel(),
        genes=np.diff(counts.indptr),
        panel=200,
        xy=np.zeros((n, 2)),
        size=(10, 10),
        mpp=MPP,
        obs=pd.DataFrame(index=[f"c{row}" for row in range(n)]),
    )
    quantity, _, figures = doublet(cells, counts, QualityOptions(doublet=True))
    assert quantity.failed[800:].mean() > 0.9
    assert quantity.failed[:800].mean() < 0.02
    strict, _, _ = doublet(cells, counts, QualityOptions(doublet=True, max_doublet_score=0.01))
    assert figures["limit"] > 0.01
    assert strict.failed.sum() > quantity.failed.sum()
