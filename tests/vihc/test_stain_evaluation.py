"""The evaluator: tiles, nuclei, cases; merging; H-scores; comparisons of systems."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from past_core.stains import reconstruct
from past_vihc.data.batch import StainBatch
from past_vihc.evaluation.compare import CompareError, compare_stains
from past_vihc.evaluation.dab import correlation, dab_density, dice, histogram, kl_divergence
from past_vihc.evaluation.evaluator import EvaluationError, StainEvaluator
from past_vihc.evaluation.scores import ScoreErrorError, h_score_errors
from past_vihc.evaluation.similarity import psnr, ssim
from past_vihc.hscore.presets import Thresholds
from past_vihc.hscore.quantify import nuclear_dab

SIDE = 32


def stained(dab: np.ndarray) -> np.ndarray:
    """`(3, S, S)` uint8 of a map of DAB density with a little haematoxylin."""
    parts = np.stack([np.full(dab.shape, 0.15), dab, np.zeros(dab.shape)])
    return np.round(reconstruct(parts, "qupath-hdab")).clip(0, 255).astype(np.uint8)


def made(seed: int, cases: list[str], first: int = 0, stain: int = 0) -> tuple[torch.Tensor, StainBatch]:
    """Tiles of four square nuclei each, whose virtual DAB is the real one with an error."""
    random = np.random.default_rng(seed)
    n = len(cases)
    labels = np.zeros((SIDE, SIDE), np.int32)
    for number in range(4):
        y, x = 4 + 14 * (number // 2), 4 + 14 * (number % 2)
        labels[y : y + 8, x : x + 8] = number + 1
    real, fake = [], []
    for _ in range(n):
        truth = random.uniform(0, 0.8, 4)
        wrong = np.clip(truth + random.normal(0, 0.1, 4), 0, 1)
        background = random.uniform(0, 0.03, (SIDE, SIDE))
        real.append(stained(background + np.append(0, truth)[labels]))
        fake.append(stained(background + np.append(0, wrong)[labels]))
    batch = StainBatch(
        he=torch.zeros((n, 3, SIDE, SIDE), dtype=torch.uint8),
        ihc=torch.from_numpy(np.stack(real)),
        embedding=torch.zeros((n, 0)),
        stain=torch.full((n,), stain),
        nuclei=torch.from_numpy(np.repeat(labels[None], n, 0)),
        case=cases,
        index=torch.arange(first, first + n),
    )
    return torch.from_numpy(np.stack(fake)), batch


def part(fake: torch.Tensor, batch: StainBatch, rows: list[int]) -> tuple[torch.Tensor, StainBatch]:
    chosen = [batch.case[i] for i in rows]
    own = StainBatch(*(chosen if isinstance(value, list) else value[rows] for value in batch))
    return fake[rows], own


CASES = ["A", "A", "B", "B", "B", "C"]


@pytest.fixture(scope="module")
def evaluated() -> tuple[StainEvaluator, torch.Tensor, StainBatch]:
    evaluator = StainEvaluator(["er"])
    fake, batch = made(0, CASES)
    evaluator.update(fake, batch)
    return evaluator, fake, batch


def test_table_holds_each_tiles_figures(evaluated: tuple) -> None:
    evaluator, fake, batch = evaluated
    table = evaluator.table()
    assert table["index"].tolist() == list(range(6))
    assert table["case"].tolist() == CASES
    assert set(table["stain"]) == {"er"}
    np.testing.assert_allclose(table["psnr"], psnr(fake, batch.ihc))
    np.testing.assert_allclose(table["ssim"], ssim(fake, batch.ihc))
    for at in range(6):
        a, b = (nuclear_dab(x[at].numpy(), batch.nuclei[at].numpy()).dab for x in (fake, batch.ihc))
        assert table["dab_r"][at] == pytest.approx(stats.pearsonr(a, b)[0])
        assert table["dab_mae"][at] == pytest.approx(np.abs(a - b).mean())
        masks = [dab_density(x[at].numpy()) >= 0.2 for x in (fake, batch.ihc)]
        expected = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
        assert table["dab_dice"][at] == pytest.approx(expected)
    assert (table["n_nuclei"] == 4).all()


def test_summary_is_the_mean_over_cases(evaluated: tuple) -> None:
    evaluator = evaluated[0]
    table, nuclei, summary = evaluator.table(), evaluator.nuclei(), evaluator.summary()
    assert summary["psnr"] == pytest.approx(table.groupby("case")["psnr"].mean().mean())
    assert summary["psnr"] != pytest.approx(table["psnr"].mean()), "tiles do not count alike"
    r = [stats.pearsonr(own["fake"], own["real"])[0] for _, own in nuclei.groupby("case")]
    assert summary["dab_r"] == pytest.approx(np.mean(r))
    assert summary["er/dab_r"] == summary["dab_r"]
    assert (summary["tiles"], summary["cases"], summary["nuclei"]) == (6, 3, 24)
    assert summary["tile_px"] == SIDE
    assert summary["identical"] == 0
    # A has two tiles, C one: a correlation over them is not defined, which is counted and left out.
    assert np.isfinite(summary["dab_p90_r"])
    assert summary["undefined/dab_p90_r"] == 2
    assert 0 < summary["dab_kl"] < 1


@pytest.mark.parametrize("rows", [[[0, 2, 4], [1, 3, 5]], [[5], [0, 1, 2, 3, 4]], [[0, 1, 2, 3], [3, 4, 5]]])
def test_ranks_merge_to_the_same_summary(evaluated: tuple, rows: list[list[int]]) -> None:
    whole, fake, batch = evaluated
    ranks = [StainEvaluator(["er"]) for _ in rows]
    for rank, own in zip(ranks, rows, strict=True):
        for at in own:  # batches of one
            rank.update(*part(fake, batch, [at]))
    merged = ranks[1].merge(ranks[0])
    assert merged.merge() is merged, "without processes there is nothing to gather"
    assert merged.summary() == pytest.approx(whole.summary(), rel=1e-12, nan_ok=True)
    pd.testing.assert_frame_equal(merged.table(), whole.table())
    pd.testing.assert_frame_equal(merged.nuclei(), whole.nuclei())


def test_processes_gather(evaluated: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `merge` does between processes, with the collective of `torch.distributed` in its place."""
    whole, fake, batch = evaluated
    ranks = [StainEvaluator(["er"]) for _ in range(2)]
    for rank, rows in zip(ranks, [[0, 1, 2], [3, 4, 5]], strict=True):
        rank.update(*part(fake, batch, rows))
    held = [(rank.stains, dict(rank._tiles)) for rank in ranks]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda out, own: out.__setitem__(slice(None), held)
    )
    for rank in ranks:
        pd.testing.assert_frame_equal(rank.merge().table(), whole.table())


def test_two_stains_have_their_own_figures() -> None:
    evaluator = StainEvaluator(["er", "ki67"], presets={"er": "ihc4bc-er"})
    evaluator.update(*made(1, ["A", "B"]))
    evaluator.update(*made(2, ["A", "B"], first=2, stain=1))
    summary = evaluator.summary()
    assert summary["ssim"] == pytest.approx((summary["er/ssim"] + summary["ki67/ssim"]) / 2)
    assert summary["cases"] == 2
    assert summary["undefined/h_error"] == 2, "no thresholds were named for Ki67"
    assert summary["h_error"] == summary["er/h_error"]


def test_nothing_to_measure_is_undefined_and_counted() -> None:
    fake, batch = made(0, ["A", "B"])
    white = torch.full_like(fake[0], 255)
    fake[0], batch.ihc[0], batch.nuclei[0] = white, white, 0
    evaluator = StainEvaluator(["er"])
    evaluator.update(fake, batch)
    table, summary = evaluator.table(), evaluator.summary()
    assert table.loc[0, ["dab_dice", "dab_r", "dab_mae"]].isna().all()
    assert table["n_nuclei"].tolist() == [0, 4]
    assert summary["dab_r"] == table["dab_r"][1]
    assert summary["undefined/dab_r"] == summary["undefined/dab_dice"] == 1
    assert summary["identical"] == 1
    assert np.isfinite([summary["psnr"], summary["ssim"], summary["dab_kl"]]).all()


def test_update_refuses_what_does_not_fit() -> None:
    fake, batch = made(0, ["A", "B"])
    evaluator = StainEvaluator(["er"])
    with pytest.raises(EvaluationError, match="no tile was evaluated"):
        evaluator.summary()
    with pytest.raises(EvaluationError, match="one image of the same size"):
        evaluator.update(fake[:1], batch)
    with pytest.raises(EvaluationError, match="stain number 3"):
        evaluator.update(fake, batch._replace(stain=torch.tensor([0, 3])))
    with pytest.raises(EvaluationError, match="cannot be merged"):
        evaluator.merge(StainEvaluator(["pr"]))


def test_parts_of_dab() -> None:
    assert dice(3, 4, 6) == pytest.approx(0.6)
    assert math.isnan(dice(0, 0, 0))
    assert math.isnan(correlation(np.ones(5), np.arange(5)))
    assert math.isnan(correlation(np.arange(2), np.arange(2)))
    counts = histogram(np.array([-0.3, 0.0, 0.049, 0.05, 1.99, 7.0]))
    assert counts.sum() == 6
    assert (counts[0], counts[1], counts[-1]) == (3, 1, 2)
    assert kl_divergence(counts, counts) == 0
    other = np.roll(counts, 5)
    expected = stats.entropy((counts + 1) / (counts + 1).sum(), (other + 1) / (other + 1).sum())
    assert kl_divergence(counts, other) == pytest.approx(expected)
    assert kl_divergence(counts, other) > 0
    flat = stained(np.full((4, 4), 0.5))
    np.testing.assert_allclose(dab_density(flat), 0.5, atol=0.02)


def test_h_score_errors_by_hand() -> None:
    nuclei = pd.DataFrame(
        {"case": "A", "stain": "er", "real": [0.1, 0.3, 0.5, 0.7], "fake": [0.1, 0.1, 0.5, 0.5]}
    )
    her2 = nuclei.assign(stain="her2", case="B")
    truth = pd.DataFrame({"case": "A", "stain": "er", "dab_od": [0.1, 0.7]})
    both = pd.concat([nuclei, her2])
    found = h_score_errors(both, "qupath", truth=truth)
    first = found.iloc[0]
    assert (first["h_real"], first["h_fake"], first["h_truth"]) == (150, 100, 150)
    assert (first["h_error"], first["h_error_truth"], first["h_error_real_truth"]) == (50, 50, 0)
    assert first["thresholds"] == "qupath"
    assert math.isnan(found["h_error"][1])
    assert "membrane" in found["why"][1]
    assert h_score_errors(nuclei, {"pr": "qupath"})["why"][0] == "no thresholds were given"
    custom = h_score_errors(nuclei, Thresholds(0.01, 0.02, 0.03))
    assert custom["h_error"][0] == 0
    with pytest.raises(ScoreErrorError, match="no nucleus of case A"):
        h_score_errors(nuclei, "qupath", truth=truth.assign(case="Z"))
    with pytest.raises(ScoreErrorError, match="no real"):
        h_score_errors(nuclei.drop(columns="real"), "qupath")


def system(seed: int, gain: float, cases: int = 8) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    case = np.repeat([f"C{i}" for i in range(cases)], 10)
    value = (
        0.5
        + 0.1 * np.random.default_rng(9).normal(size=len(case))
        + gain
        + 0.02 * random.normal(size=len(case))
    )
    return pd.DataFrame({"index": np.arange(len(case)), "case": case, "ssim": value})


def test_comparison_finds_a_difference_and_its_size() -> None:
    tables = {"film": system(0, 0.05), "none": system(1, 0.0), "same": system(2, 0.0)}
    found = compare_stains(tables, metrics=["ssim"])
    rows = found.table.set_index(["first", "second"])
    better, equal = rows.loc[("film", "none")], rows.loc[("none", "same")]
    assert better["low"] < better["difference"] < better["high"]
    assert better["low"] > 0.03
    assert better["p_tiles_holm"] < 1e-6
    assert better["p_cases_holm"] < 0.05
    assert equal["low"] < 0 < equal["high"]
    assert equal["p_tiles_holm"] > 0.05
    a, b = tables["film"]["ssim"], tables["none"]["ssim"]
    assert better["p_tiles"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert (better["resampled"], better["cases"]) == ("cases", 8)
    own = found.cases.query("first == 'film' and second == 'none' and case == 'C3'")
    assert own["difference"].item() == pytest.approx((a - b)[30:40].mean())
    only = compare_stains(tables, metrics=["ssim"], reference="same")
    assert only.table[["first", "second"]].to_numpy().tolist() == [["same", "film"], ["same", "none"]]


def test_few_cases_resample_tiles_and_say_so() -> None:
    found = compare_stains({"a": system(0, 0.05, 2), "b": system(1, 0.0, 2)}, metrics=["ssim"])
    assert found.table["resampled"].item() == "tiles within cases"
    assert found.table["p_cases"].item() >= 2 / 2**2
    assert len(found.cases) == 2


def test_undefined_tiles_are_left_out_and_counted() -> None:
    a, b = system(0, 0.0), system(1, 0.0)
    a.loc[[0, 1], "ssim"] = np.nan
    found = compare_stains({"a": a, "b": b.sample(frac=1, random_state=0)}, metrics=["ssim"]).table
    assert found["undefined"].item() == 2
    assert found["n_tiles"].item() == 78
    assert np.isfinite(found["difference"].item())


def test_comparison_refuses_other_tiles() -> None:
    a = system(0, 0.0)
    with pytest.raises(CompareError, match="different tiles"):
        compare_stains({"a": a, "b": a.iloc[:-1]}, metrics=["ssim"])
    with pytest.raises(CompareError, match="different tiles"):
        compare_stains({"a": a, "b": a.assign(case="X")}, metrics=["ssim"])
    with pytest.raises(CompareError, match="at least two"):
        compare_stains({"a": a}, metrics=["ssim"])
    with pytest.raises(CompareError, match="no column psnr"):
        compare_stains({"a": a, "b": a}, metrics=["psnr"])
    with pytest.raises(CompareError, match="no system 'z'"):
        compare_stains({"a": a, "b": a}, metrics=["ssim"], reference="z")
    with pytest.raises(CompareError, match="no tile has a value"):
        compare_stains({"a": a, "b": a.assign(ssim=np.nan)}, metrics=["ssim"])
