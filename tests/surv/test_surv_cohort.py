"""The synthetic survival cohort: hazard, tables, slides, and what the embedded default makes of them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_cohort import SMALL, cache_of, small_cohort
from sksurv.metrics import concordance_index_censored

import past_core.synthetic
from past_core.slides import open_slide
from past_core.synthetic.cache import DefaultSlidesError
from past_core.synthetic.cohort import SyntheticError, TissueConfig
from past_core.synthetic.patient import draw_patient
from past_core.synthetic.survival_cohort import default_cohort, outcomes
from past_core.synthetic.survival_cohort.molecules import LATENT_GROUPS, draw_molecules, gene_groups
from past_core.synthetic.survival_cohort.people import CANCER_TYPE, Person, draw_person
from past_core.synthetic.survival_cohort.sections import (
    MPP,
    section_config,
    section_patient,
    simulate_section,
    visible,
)
from past_core.synthetic.tissue import simulate_tissue
from past_surv.data.default import RANDOM_DIM, SurvivalData, default_bags, default_survival_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SurvivalData:
    return small_cohort(tmp_path_factory)


@pytest.fixture
def copied(data: SurvivalData, tmp_path: Path) -> Path:
    """A cache of one's own with the small cohort in it."""
    shutil.copytree(data.source.folder.parent, tmp_path / "survival")
    return tmp_path


def shown(tumour: float, lymphocytes: float, area: float, cells: float = 500) -> dict[str, float]:
    return {
        "cells": cells,
        "tumour": tumour,
        "lymphocytes": lymphocytes,
        "log_nuclear_area": tumour * np.log(area),
    }


def test_the_tables_hang_together(data: SurvivalData) -> None:
    cohort, truth = data.cohort, pd.read_csv(data.source.truth, index_col="case_id")
    assert cohort.describe().startswith("synthetic: 10 patients")
    assert list(cohort.cases) == list(truth.index) == [f"SYN-{k:04}" for k in range(1, 11)]
    assert cohort.slides["SYN-0010"] == ("SYN-0010-01Z-00-DX1", "SYN-0010-01Z-00-DX2")
    assert sorted(data.slides) == sorted(slide for slides in cohort.slides.values() for slide in slides)
    expected = 1.1 * truth["image_score"] + 0.7 * truth["gene_score"] + 0.35 * truth["age_score"]
    np.testing.assert_allclose(truth["log_hazard"], expected, atol=1e-4)
    np.testing.assert_allclose(truth["age_score"], (cohort.clinical["age"] - 64) / 10, atol=1e-6)
    seen = np.minimum(truth["death_months"], truth["follow_up_months"])
    np.testing.assert_allclose(cohort.time, seen, atol=0.0051)
    np.testing.assert_array_equal(cohort.event, truth["death_months"] <= truth["follow_up_months"])
    assert truth["median_months"].rank().tolist() == (-truth["log_hazard"]).rank().tolist()


def test_groups_are_of_genes_that_are_there(data: SurvivalData) -> None:
    symbols = {name.removesuffix("_rnaseq") for name in data.cohort.omics if name.endswith("_rnaseq")}
    assert len(data.groups) == 6
    assert set.union(*map(set, data.groups.values())) == symbols
    assert data.cohort.omics.notna().all(axis=None)


def test_slides_are_h_and_e_of_known_resolution(data: SurvivalData) -> None:
    for path in list(data.slides.values())[:3]:
        with open_slide(path) as slide:
            assert (slide.mpp, slide.width, slide.height) == (MPP, 224, 224)
            mean = slide.read(0, 0, 0, 224, 224).mean(axis=(1, 2))
        assert mean[0] > mean[1] < mean[2], "pink and violet, not green"


def test_a_section_is_the_simulators_own() -> None:
    config = TissueConfig(patient="any", cancer_type=CANCER_TYPE, seed=3, size_um=100, mpp=MPP)
    ours, theirs = simulate_section(config, draw_patient(config)), simulate_tissue(config)
    pd.testing.assert_frame_equal(ours.cells, theirs.cells)
    for name in ("cell_labels", "nucleus_labels", "level", "lumen", "vessel"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_latents_show_in_the_tissue() -> None:
    person = draw_person(1, seed=0)

    def score(**latents: float) -> float:
        moved = dataclasses.replace(person, **latents)
        config = section_config(moved, moved.slides[0], size_um=160)
        return outcomes.image_score([visible(simulate_section(config, section_patient(moved, config)).cells)])

    plain = score(proliferation=0.0, immunity=0.0)
    assert score(proliferation=4.0, immunity=0.0) > plain + 0.5
    assert score(proliferation=0.0, immunity=5.0) < plain - 0.3
    assert score(proliferation=0.0, immunity=0.0, gene_latent=3.0) == plain


def test_the_image_score() -> None:
    base = outcomes.image_score([shown(100, 150, 53)])
    assert outcomes.image_score([shown(100, 150, 70)]) > base
    assert outcomes.image_score([shown(100, 250, 53)]) < base
    assert outcomes.image_score([shown(60, 90, 53, 300), shown(40, 60, 53, 200)]) == pytest.approx(base)
    assert np.isfinite(outcomes.image_score([shown(0, 0, 1)]))


@pytest.mark.slow
def test_scores_are_about_standard_normal() -> None:
    scores = []
    for number in range(1, 25):
        person = draw_person(number, seed=5)
        config = section_config(person, person.slides[0], size_um=256)
        scores.append(
            outcomes.image_score([visible(simulate_section(config, section_patient(person, config)).cells)])
        )
    assert abs(np.mean(scores)) < 0.6
    assert 0.7 < np.std(scores) < 1.35


def test_the_hazard_is_strong_enough_to_be_found() -> None:
    stream, rows = np.random.default_rng(0), []
    for number in range(1, 2001):
        person = draw_person(number, seed=1)
        image, gene, age = stream.standard_normal(), person.gene_latent, outcomes.age_score(person.age)
        hazard = outcomes.log_hazard(image=image, gene=gene, age=age)
        rows.append((image, gene, hazard, *outcomes.draw_times(person, hazard)))
    image, gene, hazard, death, end = np.array(rows).T
    event, time = death <= end, np.minimum(death, end)

    def c_index(risk: np.ndarray) -> float:
        return concordance_index_censored(event, time, risk)[0]

    assert 0.75 < c_index(hazard) < 0.8
    assert 0.68 < c_index(image) < 0.74
    assert 0.57 < c_index(gene) < 0.66
    assert 0.40 < 1 - event.mean() < 0.5
    # Censoring that says nothing: it is as early in those of high hazard.
    assert abs(np.corrcoef(end, hazard)[0, 1]) < 0.08


@given(number=st.integers(1, 9999), low=st.floats(-4, 4), more=st.floats(0.01, 4))
def test_a_higher_hazard_is_an_earlier_death(number: int, low: float, more: float) -> None:
    person = draw_person(number, seed=0)
    (late, end), (early, same) = (outcomes.draw_times(person, h) for h in (low, low + more))
    assert early < late
    assert end == same
    assert np.log(late / early) == pytest.approx(more / outcomes.SHAPE)
    assert outcomes.median_months(low + more) < outcomes.median_months(low)


def rna_of(person: Person) -> pd.Series:
    row = draw_molecules(person)
    row = row[row.index.str.endswith("_rnaseq")]
    return row.set_axis(row.index.str.removesuffix("_rnaseq"))


def test_the_latent_moves_two_groups() -> None:
    people = [draw_person(number, seed=0) for number in range(1, 41)]
    change = np.mean(
        [
            rna_of(dataclasses.replace(p, gene_latent=1.0)) - rna_of(dataclasses.replace(p, gene_latent=-1.0))
            for p in people
        ],
        axis=0,
    )
    change = pd.Series(change, rna_of(people[0]).index)
    for name, genes in gene_groups().items():
        moved = change[genes].mean()
        assert moved > 0.8 if name in LATENT_GROUPS else moved < 0.2, (name, moved)


def test_molecules_say_nothing_of_what_is_seen() -> None:
    person = draw_person(7, seed=0)
    seen = dataclasses.replace(person, proliferation=9.0, immunity=-9.0, age=80)
    pd.testing.assert_series_equal(draw_molecules(person), draw_molecules(seen))
    row = draw_molecules(person)
    assert set(row[row.index.str.endswith("_mut")]) <= {0, 1}
    assert set(row[row.index.str.endswith("_cnv")]) <= {-2, -1, 0, 1, 2}
    assert (row[row.index.str.endswith("_rnaseq")] >= 0).all()


def test_a_patient_is_the_same_in_any_cohort(copied: Path, data: SurvivalData) -> None:
    kept = {path: path.stat().st_mtime_ns for path in copied.rglob("*.tif")}
    more = default_cohort(patients=11, size_um=SMALL["size_um"], cache=copied)
    table = pd.read_csv(more.table)
    assert len(table) == 12
    pd.testing.assert_frame_equal(table.iloc[:11], pd.read_csv(data.source.table))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "slides are shared"


def test_damage_is_mended(copied: Path, data: SurvivalData) -> None:
    slides = sorted(copied.rglob("*.tif"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in slides}
    slides[2].write_bytes(before[slides[2]][0][:5000])
    slides[4].with_suffix(".json").unlink()
    table = next(copied.rglob("cohort.csv"))
    table.write_text(table.read_text()[:3000])
    default_cohort(**SMALL, cache=copied)
    for number, path in enumerate(slides):
        content, time = before[path]
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == time) is (number not in (2, 4))
    assert table.read_bytes() == data.source.table.read_bytes()
    assert not list(copied.rglob("*.part*"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"patients": 3}, "patients is 3; a survival cohort has 10 to"),
        ({"size_um": 20}, "size_um is 20"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_simulated(tmp_path: Path, wrong: dict, said: str) -> None:
    with pytest.raises(SyntheticError, match=said):
        default_cohort(**wrong, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DefaultSlidesError, match="cannot be written"):
        default_cohort(**SMALL, cache=tmp_path / "file")


def test_other_defaults_are_keyed_without_the_cohort() -> None:
    # `cache.key` hashes what lies directly in the folder: a cohort of another code must not remake slides.
    folder = Path(past_core.synthetic.__file__).parent
    assert (folder / "survival_cohort").is_dir()
    assert not [path.name for path in folder.glob("*.[pt]*") if "surv" in path.name or path.is_dir()]


def test_bags_of_the_default(tmp_path_factory: pytest.TempPathFactory, data: SurvivalData) -> None:
    cache = cache_of(tmp_path_factory)
    bags = default_bags(**SMALL, cache=cache)
    assert bags.slides == sorted(data.slides)
    bag = bags.find("SYN-0003-01Z-00-DX1")
    assert (bag.patches, bag.dim, bag.encoder, bag.kind) == (4, 96, "demo", "grid")
    np.testing.assert_allclose(bag.coords(), [[56, 56], [168, 56], [56, 168], [168, 168]])
    other = default_bags("random", **SMALL, cache=cache)
    noise = other.find("SYN-0003-01Z-00-DX1")
    assert (noise.patches, noise.dim, noise.encoder) == (4, RANDOM_DIM, "random")
    np.testing.assert_array_equal(noise.coords(), bag.coords())
    assert other.folder != bags.folder

    before = {path: path.stat().st_mtime_ns for path in bags.folder.iterdir()}
    broken = bags.folder / "SYN-0005-01Z-00-DX1.h5"
    expected, content = bags.find(broken.stem).features().copy(), broken.read_bytes()
    broken.unlink()  # rather than be cut short while it is mapped
    broken.write_bytes(content[:1000])
    again = default_bags(**SMALL, cache=cache)
    np.testing.assert_array_equal(again.find(broken.stem).features(), expected)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if p != broken)


def test_the_default_needs_no_second_making(
    tmp_path_factory: pytest.TempPathFactory, data: SurvivalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("past_core.synthetic.survival_cohort.making.run_module", fail)
    again = default_survival_data(**SMALL, cache=cache_of(tmp_path_factory))
    pd.testing.assert_frame_equal(again.cohort.omics, data.cohort.omics)
