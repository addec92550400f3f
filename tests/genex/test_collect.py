"""One pass gives the statistics of every part; the folder is whole, keyed, and refuses others."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from past_genex.data.regions import Regions
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target
from past_genex.statistics import collect as collect_module
from past_genex.statistics.collect import StatisticsError, collect, open_statistics, statistics_key
from past_genex.statistics.folder import size_bytes
from past_genex.statistics.moments import Moments
from past_genex.statistics.ridge import fit_ridge, score

ENCODER = SimpleNamespace(name="small", fingerprint="a" * 64)
TARGET = Target("median")


@pytest.fixture(scope="module")
def slide(tiny_slides) -> ExpressionSlide:
    return ExpressionSlide(tiny_slides[0])


@pytest.fixture(scope="module")
def regions(slide) -> Regions:
    return Regions.spatial(slide.xy_um, size_um=60, rim_um=10)


@pytest.fixture(scope="module")
def features(slide) -> np.ndarray:
    counts = np.log1p(slide.counts.toarray())
    rng = np.random.default_rng(0)
    return (counts @ rng.normal(size=(counts.shape[1], 7)) + 1000).astype(np.float32)


def assert_moments(found: Moments, expected: Moments) -> None:
    assert found.n == expected.n
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        value = getattr(expected, name)
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-9, atol=1e-9 * np.abs(value).max())


def test_any_choice_of_parts_gives_the_moments_of_its_cells(slide, regions, features, tmp_path) -> None:
    done: list[int] = []
    made = collect(
        slide, features, regions, TARGET, tmp_path / "s", encoder=ENCODER, chunk=13, progress=done.append
    )
    assert done == sorted(done)
    assert done[-1] == slide.n_cells
    np.testing.assert_array_equal(made.n, regions.sizes())
    y = slide.expression(TARGET)
    rng = np.random.default_rng(1)
    choices = [regions.everything(), *(rng.random((regions.n_regions, 2)) < 0.5 for _ in range(5))]
    opened = open_statistics(tmp_path / "s")
    for parts in choices:
        cells = regions.cells(parts)
        assert_moments(opened.moments(parts), Moments.of(features[cells], y[cells]))
    assert_moments(opened.moments(), Moments.of(features, y))
    assert opened.moments(np.zeros_like(parts)).n == 0
    assert isinstance(opened.arrays["xx"], np.memmap)
    assert (opened.slide, opened.patient, opened.encoder) == (slide.name, slide.patient, "a" * 64)
    assert list(opened.genes) == list(slide.genes)
    by_region = opened.region_units(regions.everything())
    assert sum(unit.moments.n for unit in by_region.values()) == slide.n_cells
    assert len({unit.group for unit in by_region.values()}) == regions.n_regions
    with pytest.raises(StatisticsError, match="expected"):
        opened.moments(np.ones((1, 2), bool))


def test_a_second_call_reads_and_a_model_follows(slide, regions, features, tmp_path, monkeypatch) -> None:
    made = collect(slide, features, regions, TARGET, tmp_path / "s", encoder=ENCODER)
    monkeypatch.setattr(collect_module, "_fill", None)
    again = collect(slide, features, regions, TARGET, tmp_path / "s", encoder=ENCODER)
    unit = again.unit()
    assert (unit.name, unit.group, unit.encoder) == (slide.name, slide.patient, "a" * 64)
    model = fit_ridge([made.unit()], relative_alpha=1e-3)
    scored = score(model, unit)
    predicted = model.predict(features)
    y = slide.expression(TARGET)
    varying = np.flatnonzero(np.ptp(y, axis=0) > 0)
    for g in varying[:20]:
        assert scored.r[g] == pytest.approx(np.corrcoef(predicted[:, g], y[:, g])[0, 1], abs=1e-8)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"encoder": SimpleNamespace(name="small", fingerprint="b" * 64)}, "another encoder"),
        (
            {"encoder": SimpleNamespace(name="small", fingerprint="a" * 64, precision="fp16")},
            "another precision",
        ),
        ({"target": Target("10k")}, "another target"),
        ({"regions": None}, "other regions"),
        ({"slide": None}, "another slide"),
    ],
)
def test_statistics_of_something_else_are_refused_by_name(
    change, word, slide, regions, features, tiny_slides, tmp_path
) -> None:
    given = {"slide": slide, "features": features, "regions": regions, "target": TARGET, "encoder": ENCODER}
    collect(folder=tmp_path / "s", **given)
    given |= change
    if given["regions"] is None:
        given["regions"] = Regions.spatial(slide.xy_um, size_um=80, rim_um=10)
    if given["slide"] is None:
        given["slide"] = other = ExpressionSlide(tiny_slides[1])
        given["features"] = np.zeros((other.n_cells, 7), np.float32)
        given["regions"] = Regions.spatial(other.xy_um, size_um=60, rim_um=10)
    with pytest.raises(StatisticsError, match=word):
        collect(folder=tmp_path / "s", **given)


def test_other_counts_of_the_same_slide_are_other_statistics(slide, regions, tiny_slides) -> None:
    changed = ExpressionSlide(tiny_slides[0])
    changed.totals[5] += 1
    key, other = (statistics_key(s, 7, regions, TARGET, ENCODER) for s in (slide, changed))
    assert [name for name in key if key[name] != other[name]] == ["content"]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_an_embedding_that_is_not_finite_names_encoder_slide_and_cell(
    bad, slide, regions, features, tmp_path
) -> None:
    wrong = features.copy()
    wrong[17, 3] = bad
    with pytest.raises(StatisticsError) as error:
        collect(slide, wrong, regions, TARGET, tmp_path / "s", encoder=ENCODER)
    for part in ("encoder small", slide.name, repr(slide.cell_ids[17])):
        assert part in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_pass_that_breaks_off_leaves_nothing(slide, regions, features, tmp_path, monkeypatch) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(collect_module, "write_statistics", broken)
    with pytest.raises(OSError, match="disk full"):
        collect(slide, features, regions, TARGET, tmp_path / "s", encoder=ENCODER)
    assert not list(tmp_path.iterdir())


def test_size_is_told_before_and_a_full_disk_refused(
    slide, regions, features, tmp_path, monkeypatch, caplog
) -> None:
    with caplog.at_level(logging.INFO):
        collect(slide, features, regions, TARGET, tmp_path / "s", encoder=ENCODER)
    assert "GiB in" in caplog.text
    on_disk = sum(file.stat().st_size for file in (tmp_path / "s").glob("*.npy"))
    estimate = size_bytes(regions.n_regions, 7, len(slide.genes))
    assert on_disk == pytest.approx(estimate, rel=0.05)
    monkeypatch.setattr(collect_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(StatisticsError, match="larger regions"):
        collect(slide, features, regions, TARGET, tmp_path / "t", encoder=ENCODER)


def test_wrong_lengths_and_foreign_folders_are_refused(slide, regions, features, tmp_path) -> None:
    with pytest.raises(StatisticsError, match="usable cells"):
        collect(slide, features[:-1], regions, TARGET, tmp_path / "s", encoder=ENCODER)
    other = Regions.random(slide.n_cells - 1, regions=2)
    with pytest.raises(StatisticsError, match="regions of"):
        collect(slide, features, other, TARGET, tmp_path / "s", encoder=ENCODER)
    (tmp_path / "foreign").mkdir()
    with pytest.raises(StatisticsError, match="holds no statistics"):
        collect(slide, features, regions, TARGET, tmp_path / "foreign", encoder=ENCODER)


def damage_cut(folder: Path) -> str:
    path = folder / "xy.npy"
    path.write_bytes(path.read_bytes()[:-100])
    return "xy.npy"


def damage_missing(folder: Path) -> str:
    (folder / "whole_xx.npy").unlink()
    return "whole_xx.npy"


def damage_shape(folder: Path) -> str:
    np.save(folder / "mean_x.npy", np.zeros((2, 2)))
    return "mean_x.npy"


def damage_pickle(folder: Path) -> str:
    np.save(folder / "n.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return "n.npy"


def damage_meta(folder: Path) -> str:
    (folder / "meta.json").write_text("[]")
    return "meta.json"


def damage_format(folder: Path) -> str:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    return "format 99"


def damage_all(folder: Path) -> str:
    (folder / "meta.json").unlink()
    return "no meta.json"


@pytest.mark.parametrize(
    "damage",
    [
        damage_cut,
        damage_missing,
        damage_shape,
        damage_pickle,
        damage_meta,
        damage_format,
        damage_all,
    ],
)
def test_damage_is_named_by_file(damage, slide, regions, features, tmp_path) -> None:
    collect(slide, features, regions, TARGET, tmp_path / "s", encoder=ENCODER)
    word = damage(tmp_path / "s")
    with pytest.raises(StatisticsError, match=word):
        open_statistics(tmp_path / "s")
