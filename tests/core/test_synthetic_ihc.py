"""The rendered IHC: its truth, its look, its misalignment, and the default pairs."""

import dataclasses
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.measure import regionprops_table
from skimage.registration import phase_cross_correlation

from past_core.slides import open_slide
from past_core.stains import deconvolve
from past_core.synthetic import pair_files, pairs
from past_core.synthetic.cache import DefaultSlidesError
from past_core.synthetic.expression import log_rates, simulate_expression
from past_core.synthetic.ihc import ASSAYS, H_DAB, dab_truth, draw_staining, ihc_light, protein, render_ihc
from past_core.synthetic.misalign import draw_misalignment, warp
from past_core.synthetic.pairs import default_pairs, large_slide, positive_patients
from past_core.synthetic.panel import gene_model
from past_core.synthetic.patient import draw_patient
from past_core.synthetic.protein import saturation
from past_core.synthetic.render import he_concentrations, render_he
from past_core.synthetic.tissue import SyntheticError, TissueConfig, simulate_tissue

CONFIG = TissueConfig(patient="P8", cancer_type="ovarian", seed=0, size_um=260.0)
CUTS = {"ihc4bc": (0.06, 0.26, 0.46), "qupath": (0.2, 0.4, 0.6)}


def with_status(tissue, positive: bool):
    """The same tissue of a patient whose tumour is positive or negative for every receptor."""
    status = dict.fromkeys(tissue.patient.positive, positive)
    return dataclasses.replace(tissue, patient=dataclasses.replace(tissue.patient, positive=status))


@pytest.fixture(scope="module")
def tissue():
    return with_status(simulate_tissue(CONFIG), True)


@pytest.fixture(scope="module")
def er(tissue):
    light = ihc_light(tissue, "er")
    return light, dab_truth(tissue, "er", light=light)


# --- protein and truth ---------------------------------------------------------------------------------


def test_ihc_changes_neither_he_nor_counts_and_repeats_itself(tissue):
    he, counts = render_he(tissue), simulate_expression(tissue).counts
    concentrations = he_concentrations(tissue)
    first = render_ihc(tissue, "er")
    assert first.shape == (*CONFIG.shape, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, render_ihc(tissue, "er", light=ihc_light(tissue, "er", he=concentrations)))
    assert not np.array_equal(first, render_ihc(tissue, "pr"))
    assert np.array_equal(he, render_he(tissue))
    assert np.array_equal(he, render_he(tissue, concentrations=concentrations))
    assert (counts != simulate_expression(tissue).counts).nnz == 0


@settings(max_examples=50, deadline=None)
@given(
    rates=st.lists(st.floats(-12, 0), min_size=2, max_size=20),
    typical=st.floats(0.02, 0.9),
    slope=st.floats(0.2, 3),
    spread=st.floats(0.1, 1.5),
)
def test_saturation_is_the_hill_function(rates, typical, slope, spread):
    rates = np.sort(rates)
    found = saturation(rates, reference=-4.0, spread=spread, typical=typical, slope=slope)
    x = np.exp(rates + 4.0) ** (slope / spread)
    k = (1 - typical) / typical
    np.testing.assert_allclose(found, x / (k + x), rtol=1e-9)
    assert (np.diff(found) >= 0).all()
    at_reference = saturation(np.array([-4.0]), reference=-4.0, spread=spread, typical=typical, slope=slope)
    assert at_reference[0] == pytest.approx(typical)


@pytest.mark.parametrize("stain", ASSAYS)
def test_protein_rises_with_the_true_expression(tissue, stain):
    gene = ASSAYS[stain].gene
    symbols = gene_model(CONFIG.cancer_type).genes["symbol"].to_numpy()
    rate = log_rates(tissue)[:, np.flatnonzero(symbols == gene)[0]]
    amount = protein(tissue, gene)
    assert amount.min() >= 0
    assert amount.max() <= 1
    assert spearmanr(rate, amount).statistic > 0.96
    assert spearmanr(rate, amount).statistic < 1, "each cell has some noise of its own"


def test_optical_density_is_what_a_measurement_finds(tissue, er):
    """Against a segmentation's mean over the quantised picture without noise, and over the noisy one."""
    light, truth = er
    staining = draw_staining(CONFIG, "er")
    labels = tissue.nucleus_labels.astype(np.int32)
    for image, within in ((np.rint(light), 1e-3), (np.moveaxis(render_ihc(tissue, "er"), -1, 0), 2e-3)):
        dab = deconvolve(image.astype(np.uint8), staining.stain_set, white=tuple(staining.white))[1]
        table = regionprops_table(labels, dab, properties=("label", "mean_intensity"))
        assert np.array_equal(table["label"], truth["label"])
        error = table["mean_intensity"] - truth["dab_od"]
        assert abs(error.mean()) < within
        assert np.abs(error).max() < 10 * within
        positive = truth["dab_od"] > 0.06
        assert np.median(np.abs(error[positive]) / truth["dab_od"][positive]) < 0.01


def test_truth_by_hand(tissue, er):
    """Beer-Lambert backwards by least squares, independent of `stains`."""
    light, truth = er
    staining = draw_staining(CONFIG, "er")
    density = -np.log10(light / staining.white[:, None, None])
    amounts = np.tensordot(np.linalg.pinv(staining.stains.T), density, 1)
    for label in (1, 50, len(truth)):
        seen = amounts[1][tissue.nucleus_labels == label].mean()
        assert truth["dab_od"][label - 1] == pytest.approx(seen, abs=1e-4)
    assert list(truth["cell_type"]) == list(tissue.cells["cell_type"])
    assert list(truth.columns) == ["label", "x_um", "y_um", "cell_type", "dab_od", "protein"]


@pytest.mark.parametrize("stain", ["er", "pr", "ki67"])
def test_all_classes_occur_and_follow_type_and_state(tissue, stain):
    truth = dab_truth(tissue, stain)
    for cuts in CUTS.values():
        assert (np.bincount(np.digitize(truth["dab_od"], cuts), minlength=4) > 3).all()
    tumour = truth["cell_type"] == "tumour"
    cells = tissue.cells[tumour]
    inputs = np.column_stack([cells[["state_1", "state_2", "programme"]], np.ones(len(cells))])
    left = np.linalg.lstsq(inputs, truth["dab_od"][tumour], rcond=None)[1][0]
    assert 1 - left / (len(cells) * truth["dab_od"][tumour].var()) > 0.6
    if stain != "ki67":
        assert truth["dab_od"][tumour].mean() > 5 * truth["dab_od"][~tumour].mean()


@pytest.mark.parametrize("stain", ["er", "pr", "her2"])
def test_a_negative_patient_stays_negative(tissue, stain):
    truth = dab_truth(with_status(tissue, False), stain)
    assert truth["dab_od"].max() < 0.26
    assert truth["dab_od"][truth["cell_type"] == "tumour"].max() < 0.06


def test_her2_lies_in_membranes(tissue):
    staining = draw_staining(CONFIG, "her2")
    light = ihc_light(tissue, "her2")
    dab = deconvolve(light, staining.stain_set, white=tuple(staining.white))[1]
    labels, truth = tissue.cell_labels, dab_truth(tissue, "her2", light=light)
    tumour = np.append(False, truth["cell_type"] == "tumour")
    # Where two tumour cells touch, away from their nuclei.
    touching = np.zeros(labels.shape, bool)
    touching[:, :-1] = (labels[:, :-1] != labels[:, 1:]) & tumour[labels[:, :-1]] & tumour[labels[:, 1:]]
    membrane = touching & (tissue.level > 1)
    nuclei = tumour[tissue.nucleus_labels]
    assert dab[membrane].mean() > 0.5
    assert dab[membrane].mean() > 8 * dab[nuclei].mean()
    assert truth["dab_od"].max() < 0.2
    negative = ihc_light(with_status(tissue, False), "her2")
    assert deconvolve(negative, staining.stain_set, white=tuple(staining.white))[1][membrane].max() < 0.1


def test_it_looks_like_ihc(tissue, er):
    image, truth = render_ihc(tissue, "er"), er[1]
    strong = np.append(False, truth["dab_od"] > 0.6)[tissue.nucleus_labels]
    none = np.append(False, truth["dab_od"] < 0.06)[tissue.nucleus_labels]
    brown, blue = image[strong].mean(axis=0), image[none].mean(axis=0)
    assert brown[0] > brown[1] > brown[2], "positive nuclei are brown"
    assert blue[2] > blue[0] > blue[1] - 25, "negative nuclei are blue"
    assert brown.sum() < 0.6 * blue.sum()
    assert image[tissue.level >= 2].mean() > 215, "the rest is pale"


def test_laboratories_differ_but_stay_near_the_published_stains():
    drawn = [
        draw_staining(dataclasses.replace(CONFIG, patient=f"P{n}"), s) for n in range(20) for s in ASSAYS
    ]
    stains = np.array([staining.stains for staining in drawn])
    unit = H_DAB / np.linalg.norm(H_DAB, axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(stains, axis=2), 1)
    assert np.arccos((stains * unit).sum(axis=2)).max() < 0.05
    assert stains.std(axis=0).min() > 0.003
    white = np.array([staining.white for staining in drawn])
    assert 230 < white.min() < white.max() <= 255
    assert np.std([staining.dab for staining in drawn]) > 0.02


def test_what_cannot_be_rendered_is_named(tissue):
    with pytest.raises(SyntheticError, match=r"p53.*er, pr, ki67, her2"):
        render_ihc(tissue, "p53")
    with pytest.raises(SyntheticError, match=r"TP53.*ESR1"):
        protein(tissue, "TP53")


# --- misalignment --------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(rms=st.floats(0.1, 40), patient=st.integers(0, 99))
def test_a_misalignment_has_the_size_that_was_asked_for(rms, patient):
    config = dataclasses.replace(CONFIG, patient=str(patient), size_um=200.0)
    field = draw_misalignment(config, rms_um=rms).displacement((50, 50), 4.0)
    assert np.sqrt((field**2).sum(axis=0).mean()) == pytest.approx(rms, rel=0.1)
    again = draw_misalignment(config, rms_um=rms).displacement((50, 50), 4.0)
    assert np.array_equal(field, again)


@settings(max_examples=15, deadline=None)
@given(down=st.integers(-5, 5), right=st.integers(-5, 5))
def test_warping_by_whole_pixels_is_a_shift(down, right):
    image = np.random.default_rng(0).uniform(0, 255, (2, 24, 30)).astype(np.float32)
    field = np.broadcast_to(np.float32([down, right])[:, None, None], (2, 24, 30))
    moved = warp(image, field)
    expected = np.roll(image, (-down, -right), axis=(1, 2))
    np.testing.assert_allclose(moved[:, 6:-6, 6:-6], expected[:, 6:-6, 6:-6], atol=0.05)


def test_registration_finds_the_misalignment_again(tissue, er):
    misalignment = draw_misalignment(CONFIG, rms_um=1.5)
    field = misalignment.displacement(CONFIG.shape, CONFIG.mpp) / CONFIG.mpp
    plain = er[0].mean(axis=0)
    moved = render_ihc(tissue, "er", light=er[0], misalignment=misalignment).mean(axis=2)
    assert np.abs(field).max() > 4
    side = 260
    for top in range(0, CONFIG.shape[0] - side, side):
        for left in range(0, CONFIG.shape[1] - side, side):
            window = np.s_[top : top + side, left : left + side]
            taper = np.outer(np.hanning(side), np.hanning(side))
            fixed, other = (part[window] - part[window].mean() for part in (plain, moved))
            shift, _, _ = phase_cross_correlation(fixed * taper, other * taper, upsample_factor=10)
            expected = (field[(slice(None), *window)] * taper).sum(axis=(1, 2)) / taper.sum()
            np.testing.assert_allclose(shift, expected, atol=1.0)


def test_an_impossible_misalignment_is_refused():
    for rms in (-1.0, 100.0, float("nan")):
        with pytest.raises(SyntheticError, match="misalignment_um"):
            draw_misalignment(CONFIG, rms_um=rms)


# --- default pairs -------------------------------------------------------------------------------------

SMALL = {"patients": ("P8", "P9"), "size_um": 160}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that two callers filled at the same time, what they got, and what was logged."""
    cache, log = tmp_path_factory.mktemp("cache"), []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())
    pairs.logger.addHandler(handler)
    level, _ = pairs.logger.level, pairs.logger.setLevel(logging.INFO)
    try:
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(default_pairs, cache=cache, **SMALL) for _ in range(2)]
            found = [call.result() for call in calls]
    finally:
        pairs.logger.setLevel(level)
        pairs.logger.removeHandler(handler)
    return cache, found, log


@pytest.fixture
def in_this_process(monkeypatch):
    """Makes pairs here, to save the start of workers; returns the files that were written."""
    made = []

    def run_worker(share, progress):
        for jobs in share:
            pair_files.make_pairs(jobs)

    write = pair_files._write
    monkeypatch.setattr(pairs, "_run_worker", run_worker)
    monkeypatch.setattr(
        pair_files,
        "_write",
        lambda path, job: (made.append(f"{path.parent.name}/{path.name}"), write(path, job)),
    )
    return made


def test_two_callers_at_once_make_each_pair_once(filled):
    cache, (first, second), log = filled
    assert first == second
    assert [(pair.case, pair.stain) for pair in first] == [("P8", "er"), ("P9", "er")]
    for case in ("P8", "P9"):
        assert sum(f"synthetic pair {case} is ready" in line for line in log) == 1
    names = {path.name for path in first[0].he.parent.iterdir()}
    assert names == {"he.tif", "ihc_er.tif", "nuclei.tif", "truth_er.csv", pair_files.RECORD}
    assert not [path for path in cache.rglob("*") if ".part" in path.name]


def test_files_hold_what_was_rendered(filled):
    pair = filled[1][0][1]
    tissue = simulate_tissue(dataclasses.replace(CONFIG, patient="P9", cancer_type="breast", size_um=160.0))
    for path, expected in ((pair.he, render_he(tissue)), (pair.ihc, render_ihc(tissue, "er"))):
        with open_slide(path) as slide:
            assert slide.mpp == pytest.approx(pair.mpp)
            image = slide.read(0, 0, 0, *tissue.config.shape)
        assert np.array_equal(image, np.moveaxis(expected, -1, 0))
    labels = tifffile.imread(pair.nuclei)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, tissue.nucleus_labels)
    truth = pd.read_csv(pair.truth)
    np.testing.assert_allclose(truth["dab_od"], dab_truth(tissue, "er")["dab_od"], atol=1e-5)
    assert list(truth["label"]) == list(range(1, len(tissue.cells) + 1))
    assert np.array_equal(pair.staining.stains, draw_staining(tissue.config, "er").stains)


def test_pairs_are_found_again_and_only_what_is_damaged_is_replaced(filled, in_this_process):
    cache, (expected, _), _ = filled
    assert default_pairs(cache=cache, **SMALL) == expected
    assert in_this_process == []
    original = expected[0].ihc.read_bytes()
    expected[0].ihc.write_bytes(original[: len(original) // 2])
    flipped = bytearray(expected[1].nuclei.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    expected[1].nuclei.write_bytes(flipped)
    os.utime(expected[1].nuclei)
    expected[1].truth.unlink()
    assert default_pairs(cache=cache, **SMALL) == expected
    assert sorted(in_this_process) == [
        "P8/ihc_er.tif",
        "P8/truth_er.csv",
        *(f"P9/{name}" for name in ("ihc_er.tif", "nuclei.tif", "truth_er.csv")),
    ]
    assert expected[0].ihc.read_bytes() == original


def test_another_stain_joins_its_case_and_misaligned_pairs_lie_apart(filled, in_this_process):
    cache, (expected, _), _ = filled
    (_, more) = default_pairs(cache=cache, stains=("er", "her2"), patients=("P8",), size_um=160)
    assert more.he == expected[0].he
    assert in_this_process == ["P8/ihc_her2.tif", "P8/truth_her2.csv"]
    (moved,) = default_pairs(cache=cache, patients=("P8",), size_um=160, misalignment_um=5)
    assert moved.he.parent != expected[0].he.parent
    assert moved.he.read_bytes() == expected[0].he.read_bytes()
    assert moved.truth.read_bytes() == expected[0].truth.read_bytes()
    assert moved.ihc.read_bytes() != expected[0].ihc.read_bytes()
    assert moved.misalignment.displacement((4, 4), 40.0).any()
    assert expected[0].misalignment is None


def test_default_patients_are_new_and_positive():
    for stain, found in ASSAYS.items():
        configs = positive_patients(stain)
        assert len({config.patient for config in configs}) == 10
        assert all(int(config.patient[1:]) >= 8 for config in configs)
        assert {config.cancer_type for config in configs} == {"breast", "ovarian"}
        status = [draw_patient(config).positive for config in configs]
        assert all(positive.get(found.gene, True) for positive in status)
    numbers = [int(config.patient[1:]) for config in positive_patients("ki67")]
    assert numbers == [8, 9, 12, 13, 16, 17, 20, 21, 24, 25]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"stains": ("er", "p53")}, "p53"),
        ({"patients": ("P0",)}, "P0"),
        ({"patients": ("Ann",)}, "Ann"),
        ({"patients": ()}, "at least one"),
        ({"stains": ()}, "at least one"),
        ({"size_um": 20}, "size_um"),
        ({"misalignment_um": 1e4}, "misalignment_um"),
    ],
)
def test_impossible_pairs_are_refused_before_any_work(tmp_path, options, match):
    with pytest.raises(SyntheticError, match=match):
        default_pairs(cache=tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DefaultSlidesError, match="PAST_CACHE"):
        default_pairs(cache=tmp_path / "file", **SMALL)


def test_pairs_need_only_the_base_install():
    heavy = {"spatialdata", "scanpy", "shapely", "geopandas", "lightning", "torch"}
    code = f"import sys, past_core.synthetic.pairs; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# --- large slides --------------------------------------------------------------------------------------


def test_a_large_slide_is_mirrored_tissue_on_glass(tmp_path):
    path = large_slide(tmp_path / "large.tif", 1500, seed=3)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert [(level.height, level.width) for level in slide.levels] == [(1500, 1500), (750, 750)]
        whole = slide.read(0, 0, 0, 1500, 1500).astype(float)
        half = slide.read(1, 0, 0, 750, 750).astype(float)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        assert tiff.pages.first.is_tiled
    assert whole[:, 1400:, 1400:].min() > 225, "glass in the corners"
    # The tissue of 768 pixels is reflected there: both sides are alike, and no line shows.
    line, rows = 768, slice(500, 1000)
    assert whole[:, rows, 500:1000].mean() < 200
    left, right = whole[:, rows, line - 150 : line][..., ::-1], whole[:, rows, line : line + 150]
    assert np.abs(left - right).mean() < 6
    steps = np.abs(np.diff(whole[:, rows], axis=2)).mean(axis=(0, 1))
    assert steps[line - 1] < steps[500:750].mean()
    coarse = whole.reshape(3, 750, 2, 750, 2).mean(axis=(2, 4))
    assert np.abs(coarse - half).mean() < 4


def test_a_large_slide_has_a_least_size(tmp_path):
    with pytest.raises(SyntheticError, match="side_px is 100"):
        large_slide(tmp_path / "small.tif", 100)
    assert list(tmp_path.iterdir()) == []
