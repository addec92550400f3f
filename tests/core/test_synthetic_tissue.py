"""The simulated state: masks, composition, determinism."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label as connected

from past_core.errors import PastError
from past_core.synthetic.blobs import Blobs, place
from past_core.synthetic.cohort import CELL_TYPES, RARE_TYPES, SyntheticError
from past_core.synthetic.looks import LOOKS
from past_core.synthetic.patient import draw_patient
from past_core.synthetic.seeding import Field, generator, smooth_field
from past_core.synthetic.tissue import Tissue, TissueConfig, cohort, simulate_tissue

SMALL = TissueConfig(patient="A", cancer_type="colorectal", seed=3, size_um=300.0)


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return simulate_tissue(SMALL)


@pytest.fixture(scope="module")
def slides() -> list[Tissue]:
    """The default cohort on coarse masks: composition does not depend on it."""
    return [simulate_tissue(replace(c, mpp=1.0)) for c in cohort()]


def test_every_label_is_present_once_and_connected(tissue):
    n = len(tissue.cells)
    for labels in (tissue.cell_labels, tissue.nucleus_labels):
        assert labels.dtype == np.uint32
        assert labels.shape == SMALL.shape == (1200, 1200)
        assert np.array_equal(np.unique(labels), np.arange(n + 1))
        assert connected(labels.astype(np.int64), connectivity=1).max() == n


def test_nuclei_lie_in_their_cells_and_cells_outside_lumens(tissue):
    nuclei = tissue.nucleus_labels > 0
    assert np.array_equal(tissue.nucleus_labels[nuclei], tissue.cell_labels[nuclei])
    assert not (tissue.lumen & (tissue.cell_labels > 0)).any()
    assert (tissue.vessel <= tissue.lumen).all()
    assert tissue.lumen.any()


def test_level_tells_nucleus_cytoplasm_and_background_apart(tissue):
    assert np.array_equal(tissue.level <= 1, tissue.nucleus_labels > 0)
    assert np.array_equal(tissue.level < 2, tissue.cell_labels > 0)


def test_centroids_and_areas_are_those_of_the_masks(tissue):
    index = np.arange(1, len(tissue.cells) + 1)
    centre = np.array(ndimage.center_of_mass(np.ones(SMALL.shape), tissue.cell_labels, index))
    wanted = (centre[:, ::-1] + 0.5) * SMALL.mpp
    np.testing.assert_allclose(tissue.cells[["x_um", "y_um"]], wanted, atol=1e-6)
    for name, labels in (("cell", tissue.cell_labels), ("nucleus", tissue.nucleus_labels)):
        area = np.bincount(labels.ravel())[1:] * SMALL.mpp**2
        np.testing.assert_allclose(tissue.cells[f"{name}_area_um2"], area)
    assert (tissue.cells["nucleus_area_um2"] < tissue.cells["cell_area_um2"]).all()


def test_same_configuration_same_bits(tissue):
    again = simulate_tissue(TissueConfig(patient="A", cancer_type="colorectal", seed=3, size_um=300.0))
    pd.testing.assert_frame_equal(tissue.cells, again.cells, check_exact=True)
    for name in ("cell_labels", "nucleus_labels", "level", "lumen", "vessel"):
        assert np.array_equal(getattr(tissue, name), getattr(again, name)), name


@pytest.mark.parametrize("change", [{"seed": 4}, {"patient": "B"}])
def test_seed_and_patient_change_everything(tissue, change):
    other = simulate_tissue(replace(SMALL, mpp=1.0, **change))
    same = simulate_tissue(replace(SMALL, mpp=1.0))
    assert len(other.cells) != len(same.cells) or not np.allclose(
        other.cells["x_um"], same.cells["x_um"], atol=1
    )
    assert not np.allclose(other.patient.stains, same.patient.stains)
    assert not np.allclose(other.programme.nodes, same.programme.nodes)


def test_a_stream_is_of_its_purpose_alone():
    first = generator(SMALL, "counts").random(4)
    generator(SMALL, "other").random(1000)
    assert np.array_equal(first, generator(SMALL, "counts").random(4))
    assert not np.array_equal(first, generator(SMALL, "other").random(4))


def test_cohort_has_the_stated_make_up(slides):
    assert [t.config.patient for t in slides] == ["P1", "P2", "P3", "P4", "P5"]
    assert len({t.config.cancer_type for t in slides}) == 4
    for tissue in slides:
        assert 2700 <= len(tissue.cells) <= 3600
        share = tissue.cells["cell_type"].value_counts(normalize=True)
        assert (share > 0).all(), "every type is there"
        assert share[list(RARE_TYPES)].sum() < 0.08
        assert 0.25 < share["tumour"] + share["epithelial"] < 0.6
        assert len(tissue.structures.glands) >= 5
        assert len(tissue.structures.vessels) >= 5
        assert len(tissue.structures.aggregates) >= 1
        spacing = 625 / np.sqrt(len(tissue.cells))
        assert 10 < spacing < 13


def test_patients_differ_in_composition_and_stain(slides):
    shares = np.array([t.cells["cell_type"].value_counts(normalize=True, sort=False) for t in slides])
    stains = np.array(
        [np.append(t.patient.stains, [t.patient.haematoxylin, t.patient.eosin]) for t in slides]
    )
    for i in range(5):
        for j in range(i):
            assert np.abs(shares[i] - shares[j]).sum() > 0.08
            assert np.abs(stains[i] - stains[j]).max() > 0.02


def test_states_are_about_standard_normal_and_partly_smooth(slides):
    for name in ("state_1", "state_2", "programme"):
        values = np.concatenate([t.cells[name] for t in slides])
        assert abs(values.mean()) < 0.15
        assert 0.9 < values.std() < 1.1
    states = np.concatenate([t.cells[["state_1", "state_2"]] for t in slides])
    assert abs(np.corrcoef(states.T)[0, 1]) < 0.15
    # Neighbours share the smooth field, a share of 0.6² of the variance.
    for tissue in slides:
        labels = tissue.cell_labels
        left, right = labels[:, :-1].ravel(), labels[:, 1:].ravel()
        touch = (left != right) & (left > 0) & (right > 0)
        z = tissue.cells["state_2"].to_numpy()
        assert 0.2 < np.corrcoef(z[left[touch] - 1], z[right[touch] - 1])[0, 1] < 0.55


def test_strength_zero_leaves_one_look_for_all():
    tissue = simulate_tissue(replace(SMALL, morphology=0.0, size_um=400.0, mpp=0.5))
    assert not tissue.lumen.any()
    cells = tissue.cells
    truth = cells[["state_1", "state_2", "programme"]].assign(
        **{t: (cells["cell_type"] == t).astype(float) for t in CELL_TYPES}
    )
    seen = np.log(cells[["cell_area_um2", "nucleus_area_um2"]]).join(
        np.log(cells[list(LOOKS)].clip(lower=1e-3))
    )
    seen = seen.loc[:, np.ptp(seen.to_numpy(), axis=0) > 0]
    correlation = np.corrcoef(seen.to_numpy().T, truth.to_numpy().T)[: seen.shape[1], seen.shape[1] :]
    # At most 168 correlations of noise, standard deviation 1/√N each.
    assert np.abs(correlation).max() < 4.5 / np.sqrt(len(cells))
    assert {"offset_um", "nucleolus", "blend"}.isdisjoint(seen.columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cancer_type": "liver"}, "breast, lung"),
        ({"patient": ""}, "patient"),
        ({"seed": -1}, "seed"),
        ({"morphology": 1.5}, r"morphology is 1\.5"),
        ({"size_um": 20.0}, "size_um"),
        ({"mpp": 0.0}, "mpp"),
        ({"spacing_um": 1.0}, "spacing_um"),
        ({"depth": 0.0}, "depth"),
    ],
)
def test_a_bad_configuration_is_refused(change, message):
    with pytest.raises(SyntheticError, match=message) as caught:
        replace(SMALL, **change)
    assert isinstance(caught.value, (PastError, ValueError))


def test_an_empty_cohort_is_refused():
    with pytest.raises(SyntheticError, match="at least one"):
        cohort(0)


def test_the_smallest_section_works():
    tissue = simulate_tissue(replace(SMALL, size_um=100.0, mpp=0.5))
    assert len(tissue.cells) > 30


def test_receptor_status_follows_the_odds():
    configs = [TissueConfig(patient=f"Q{i}", cancer_type="breast", seed=0) for i in range(300)]
    positive = np.mean([draw_patient(c).positive["ESR1"] for c in configs])
    assert 0.65 < positive < 0.85


@settings(max_examples=25, deadline=None)
@given(
    x=st.floats(5, 55),
    y=st.floats(5, 55),
    radius=st.floats(2, 12),
    phase=st.floats(0, 6),
    rough=st.floats(0, 0.2),
)
def test_an_outline_as_mask_and_as_distance_agree(x, y, radius, phase, rough):
    blob = Blobs(np.array([[x, y]]), np.array([radius]), np.full((1, 3), rough), np.full((1, 3), phase))
    mask = blob.mask((120, 120), 0.5)
    yy, xx = np.mgrid[:120, :120]
    points = (np.stack([xx.ravel(), yy.ravel()], 1) + 0.5) * 0.5
    assert np.array_equal(mask.ravel(), blob.distance(points)[:, 0] < 0)
    assert np.array_equal(mask.ravel(), blob.nearest(points)[0] < 0)


def test_placed_discs_do_not_touch():
    blobs = place(np.random.default_rng(0), np.full(20, 25.0), size_um=400, gap_um=8)
    gaps = np.linalg.norm(blobs.centre[:, None] - blobs.centre[None], axis=-1) + 1e9 * np.eye(len(blobs))
    assert len(blobs) > 5
    assert gaps.min() > 2 * 25 + 8


def test_no_outline_is_infinitely_far():
    distance, index = Blobs(np.empty((0, 2)), np.empty(0), np.empty((0, 3)), np.empty((0, 3))).nearest(
        np.zeros((2, 2))
    )
    assert np.isposinf(distance).all()
    assert (index == -1).all()


def test_a_field_reads_the_same_by_point_and_by_pixel():
    field = smooth_field(np.random.default_rng(1), 100.0, scale_um=15.0)
    yy, xx = np.mgrid[:50, :40]
    points = (np.stack([xx.ravel(), yy.ravel()], 1) + 0.5) * 2.0
    np.testing.assert_allclose(field.image((50, 40), 2.0).ravel(), field.at(points), atol=1e-5)


def test_a_linear_field_is_exact():
    y, x = np.mgrid[:11, :11] * 4.0
    field = Field(2 * x - y, 4.0)
    points = np.array([[1.0, 3.0], [39.0, 17.5]])
    np.testing.assert_allclose(field.at(points), 2 * points[:, 0] - points[:, 1])
