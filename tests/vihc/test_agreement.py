"""Statistics of agreement against scipy, scikit-learn and closed forms; properties; tables; the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.errors import PastError
from past_vihc.agreement.bootstrap import _values, clustered, statistics
from past_vihc.agreement.categories import H_SCORE, PERCENT, confusion, given_cutoffs, weighted_kappa
from past_vihc.agreement.read import AgreementTableError, AgreementTableNotFoundError, read_pairs
from past_vihc.agreement.report import agreement_report
from past_vihc.agreement.statistics import (
    AgreementError,
    bland_altman,
    concordance,
    icc,
    pearson,
    spearman,
)


def scores(seed: int, n: int = 40, noise: float = 25, shift: float = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.uniform(0, 300, n)
    return x, np.clip(x + shift + random.normal(0, noise, n), 0, 300)


seeds = st.integers(0, 10**6)


@given(seeds, st.integers(5, 80), st.floats(1, 300))
def test_correlations_equal_scipy(seed: int, n: int, noise: float) -> None:
    x, y = scores(seed, n, noise)
    found, expected = pearson(x, y), stats.pearsonr(x, y)
    interval = expected.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((expected[0], interval.low, interval.high))
    assert spearman(x, y).value == pytest.approx(stats.spearmanr(x, y)[0])


@given(seeds, st.floats(0, 200), st.floats(-100, 100))
def test_concordance_and_icc_by_closed_form(seed: int, noise: float, shift: float) -> None:
    x, y = scores(seed, 30, noise + 1, shift)
    c = concordance(x, y)
    covariance = np.cov(x, y, bias=True)
    bottom = covariance[0, 0] + covariance[1, 1] + (x.mean() - y.mean()) ** 2
    assert c.value == pytest.approx(2 * covariance[0, 1] / bottom)
    assert abs(c.value) <= abs(pearson(x, y).value) + 1e-12
    assert c.low < c.value < c.high
    assert concordance(y, x) == c
    s = np.cov(x, y)
    total = s[0, 0] + s[1, 1]
    bottom = total + (x.mean() - y.mean()) ** 2 - (total - 2 * s[0, 1]) / len(x)
    found = icc(x, y)
    assert found.value == pytest.approx(2 * s[0, 1] / bottom)
    assert found.low < found.value < found.high


@given(seeds, st.floats(5, 100))
def test_a_shift_lowers_concordance_alone(seed: int, shift: float) -> None:
    x, y = scores(seed)
    y = y - (y - x).mean()
    assert pearson(x, y + shift).value == pytest.approx(pearson(x, y).value)
    assert spearman(x, y + shift).value == pytest.approx(spearman(x, y).value)
    for measure in (concordance, icc):
        assert measure(x, y + shift).value < measure(x, y).value
    assert bland_altman(x, y + shift).bias.value == pytest.approx(shift)
    assert bland_altman(x, y + shift).sd == pytest.approx(bland_altman(x, y).sd)


@given(st.lists(st.integers(0, 300), min_size=4, max_size=30, unique=True))
def test_identical_scores_agree_wholly(values: list[int]) -> None:
    x = np.array(values, float)
    found = statistics(x, x, H_SCORE)
    for name in ("pearson", "spearman", "concordance", "icc"):
        assert found[name].value == pytest.approx(1), name
        assert found[name].low == pytest.approx(1), name
    assert found["bias"].value == found["lower_limit"].value == 0
    assert concordance(x, x * 1.01 + 1).value < 1
    if found["kappa_linear"].value is not None:
        assert found["kappa_linear"].value == pytest.approx(1)


def test_lins_interval_covers() -> None:
    random = np.random.default_rng(0)
    truth = 2 * 0.8 / (1 + 1 + 0.3**2)
    covered = 0
    for _ in range(400):
        x, z = random.normal(size=(2, 50))
        found = concordance(x, 0.8 * x + 0.6 * z + 0.3)
        covered += found.low <= truth <= found.high
    assert 0.91 < covered / 400 < 0.985


@given(seeds, st.integers(4, 60))
def test_bland_altman_by_hand(seed: int, n: int) -> None:
    x, y = scores(seed, n)
    found, d = bland_altman(x, y), y - x
    assert found.bias.value == pytest.approx(d.mean())
    expected = stats.t.interval(0.95, n - 1, d.mean(), stats.sem(d))
    assert (found.bias.low, found.bias.high) == pytest.approx(expected)
    assert found.upper.value - found.lower.value == pytest.approx(2 * stats.norm.ppf(0.975) * d.std(ddof=1))
    assert found.upper.high - found.upper.low > found.bias.high - found.bias.low
    assert found.slope.value == pytest.approx(stats.linregress((x + y) / 2, d).slope)


@given(seeds, st.sampled_from(["quadratic", "linear"]), st.integers(2, 5))
def test_kappa_equals_scikit_learn(seed: int, weights: str, k: int) -> None:
    x, y = scores(seed, 60)
    categories = given_cutoffs(np.linspace(0, 300, k + 1)[1:-1])
    found = weighted_kappa(confusion(x, y, categories), weights)
    assert found.value == pytest.approx(
        cohen_kappa_score(categories.of(x), categories.of(y), weights=weights)
    )
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_kappas_standard_error_covers() -> None:
    random = np.random.default_rng(1)
    p = np.array([[0.3, 0.08, 0.02], [0.06, 0.2, 0.06], [0.01, 0.07, 0.2]])
    truth = weighted_kappa(p * 1e6, "quadratic").value
    draws = random.multinomial(150, p.ravel(), 400).reshape(-1, 3, 3)
    found = [weighted_kappa(counts, "quadratic") for counts in draws]
    assert 0.91 < np.mean([one.low <= truth <= one.high for one in found]) < 0.985


def test_categories_and_their_borders() -> None:
    assert H_SCORE.of(np.array([0, 50, 50.5, 100, 101, 200, 201, 300])).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert PERCENT.of(np.array([0, 0.9, 1, 80])).tolist() == [0, 0, 1, 1]
    assert given_cutoffs([10, 20]).of(np.array([9, 10, 20])).tolist() == [0, 1, 2]
    assert given_cutoffs([10, 20]).names == ("below 10", "10 to 20", "20 and above")
    for bad in ([], [2, 1], [1, 1], [float("nan")]):
        with pytest.raises(AgreementError, match="ascending"):
            given_cutoffs(bad)


def test_undefined_is_said() -> None:
    x, flat = np.array([1.0, 2, 3, 4]), np.full(4, 7.0)
    assert pearson(x, flat).value is None
    assert "y is 7 in all rows" in pearson(x, flat).why
    assert concordance(x, flat).value == 0
    assert concordance(flat, flat).value is None
    assert icc(flat, flat).value is None
    assert weighted_kappa(confusion(flat, flat, H_SCORE), "linear").value is None
    assert "three pairs" in pearson(x[:3], x[:3] ** 2).why
    assert icc(x, x + 5).low is None
    with pytest.raises(AgreementError, match="at least 3"):
        pearson(x[:2], x[:2])
    with pytest.raises(AgreementError, match="1 of 4 pairs are not finite"):
        icc(x, np.array([1, 2, np.nan, 3]))


def test_clusters_widen_intervals() -> None:
    random = np.random.default_rng(3)
    x = np.repeat(random.uniform(0, 300, 12), 8) + random.normal(0, 2, 96)
    y = x + np.repeat(random.normal(0, 60, 12), 8)  # one patient's rows share their error
    own = np.repeat([f"P{i}" for i in range(12)], 8)
    plain, by_patient = statistics(x, y, H_SCORE), clustered(x, y, own, H_SCORE, resamples=300, seed=1)
    for name in ("pearson", "bias", "concordance"):
        assert by_patient[name].value == plain[name].value
        assert by_patient[name].high - by_patient[name].low > 1.3 * (plain[name].high - plain[name].low)
    assert by_patient == clustered(x, y, own, H_SCORE, resamples=300, seed=1)
    with pytest.raises(AgreementError, match="2 clusters"):
        clustered(x[:16], y[:16], own[:16], None)
    values = _values(x, y, H_SCORE)
    assert values.keys() == plain.keys()
    assert list(values.values()) == pytest.approx([one.value for one in plain.values()])


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_what_spreadsheets_write(tmp_path: Path) -> None:
    text = "\ufeffcase;expert;note;predicted\nA;10;x;12\nB;20;;25.5\n\nC;;y;7\nD;n/a;;\nE;30;;31\n"
    found = read_pairs(write(tmp_path, text), id_column="case")
    assert found.x.tolist() == [10, 20, 30]
    assert found.y.tolist() == [12, 25.5, 31]
    assert found.ids == ["A", "B", "E"]
    assert found.missing == ["C (line 5): no expert", "D (line 6): no expert and predicted"]
    found = read_pairs(write(tmp_path, "name\ta\tb\nu\t1\t2\nv\t3\t4\n"))
    assert (found.x_name, found.y_name, found.ids) == ("a", "b", ["line 2", "line 3"])
    assert "two numeric columns" in found.notes[0]
    found = read_pairs(write(tmp_path, "case,a,b\n1,5,6\n2,7,8\n"), id_column="case")
    assert (found.x_name, found.y_name) == ("a", "b")
    found = read_pairs(write(tmp_path, 'a,"b, c"\n1,2\n'), y="b, c")
    assert (found.x_name, found.y.tolist()) == ("a", [2])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {"x": "c"}, r"no column 'c' \(--x\); it has a, b"),
        ("a,b,c\n1,2,3\n", {}, r"--x and --y; 3 are numeric \(a, b, c\)"),
        ("a,b\nx,2\n", {}, "1 are numeric"),
        ("expert,predicted\n1,2\n3,high\n5,1e999\n", {}, "line 3, predicted: 'high'; line 4"),
        ("id,expert,predicted\nA,1,2\nB,1,2\nA,3,4\n", {"id_column": "id"}, "A in lines 2, 4"),
        ("a,a\n1,2\n", {}, "column 'a' comes 2 times"),
        ("a,b\n1,2,3\n", {}, "line 2: 3 cells, the header has 2"),
        ("", {}, "empty"),
        ("a;b\n1;2,5\n", {"x": "a", "y": "b"}, "decimal point"),
        ("a,b\n1,2\n", {"x": "a", "y": "a"}, "expected two columns"),
        ("s,a,b\n,1,2\n", {"group": "s"}, "s is empty in line 2"),
        ('a,b\n1,"2\n', {}, "line 2"),
    ],
)  # fmt: skip
def test_bad_tables_are_named(tmp_path: Path, text: str, options: dict, message: str) -> None:
    with pytest.raises(AgreementTableError, match=message):
        read_pairs(write(tmp_path, text), **options)


def test_no_table_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(AgreementTableNotFoundError, match="no table"):
        read_pairs(tmp_path / "none.csv")
    path = tmp_path / "bad.csv"
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(AgreementTableError, match="UTF-8"):
        read_pairs(path)


def test_ids_may_repeat_over_groups(tmp_path: Path) -> None:
    path = write(tmp_path, "id,s,a,b\nA,er,1,2\nA,pr,3,4\n")
    assert read_pairs(path, id_column="id", group="s").ids == ["A", "A"]


def test_scale_is_told_by_names_and_values(tmp_path: Path) -> None:
    def report(text: str, **options: object) -> object:
        return agreement_report(read_pairs(write(tmp_path, text)), **options)

    assert report("a,b\n1,2\n40,60\n250,260\n").categories is H_SCORE
    assert report("percent_a,b\n0,2\n40,60\n70,80\n").categories is PERCENT
    assert report("a,b\n-1,2\n40,60\n70,80\n").categories is None
    assert report("a,b\n-1,2\n40,60\n70,80\n", cutoffs=[5, 50]).categories.cutoffs == (5, 50)
    with pytest.raises(AgreementTableError, match="2 pairs"):
        report("a,b\n1,2\n40,60\n")


def run(*args: object) -> object:
    return CliRunner().invoke(build_app(), ["agreement", *map(str, args)])


def test_command_reports_groups_and_draws(tmp_path: Path) -> None:
    x, y = scores(0, 24)
    rows = [
        f"S{i},{'ER' if i % 2 else 'PR'},P{i // 4},{a:.1f},{b:.1f}"
        for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    rows += ["S98,HER2,P9,10,12", "S99,ER,P9,,12"]
    table = write(tmp_path, "\n".join(["slide,stain,patient,expert,predicted", *rows]))
    result = run(
        table,
        "--id",
        "slide",
        "--group",
        "stain",
        "--cluster",
        "patient",
        "--resamples",
        100,
        "-o",
        tmp_path / "o",
    )
    assert result.exit_code == 0, result.output
    assert "Pearson's r" in result.output
    assert "S99 (line 27): no expert" in result.output
    found = json.loads((tmp_path / "o" / "agreement.json").read_text())
    assert [(g["name"], g["pairs"]) for g in found["groups"]] == [
        ("all", 25),
        ("PR", 12),
        ("ER", 12),
        ("HER2", 1),
    ]
    assert found["groups"][3]["why"] == "1 pairs, fewer than 3"
    assert found["groups"][0]["statistics"]["pearson"]["interval"] == "bootstrap"
    own = [i for i in range(24) if i % 2]
    expected = stats.pearsonr(np.round(x, 1)[own], np.round(y, 1)[own])[0]
    assert found["groups"][2]["statistics"]["pearson"]["value"] == pytest.approx(expected)
    assert np.sum(found["groups"][0]["counts"]) == 25
    for name in ("scatter.png", "bland_altman.png"):
        assert (tmp_path / "o" / name).read_bytes()[:4] == b"\x89PNG"
    assert not list((tmp_path / "o").glob(".*"))


def test_command_says_what_is_constant(tmp_path: Path) -> None:
    table = write(tmp_path, "expert,predicted\n0,5\n0,7\n0,9\n0,3\n")
    result = run(table, "-o", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert "undefined" in result.output
    found = json.loads((tmp_path / "o" / "agreement.json").read_text())["groups"][0]["statistics"]
    assert found["pearson"]["value"] is None
    assert "x is 0 in all rows" in found["pearson"]["why"]
    assert found["bias"]["value"] == 6


def test_command_leaves_nothing_behind_on_errors(tmp_path: Path) -> None:
    table = write(tmp_path, "expert,predicted\n1,2\n3,4\n")
    result = run(table, "-o", tmp_path / "o")
    assert isinstance(result.exception, PastError)
    assert not (tmp_path / "o").exists()
    result = run(table, "-o", tmp_path / "o", "--cutoffs", "1,x")
    assert "--cutoffs" in str(result.exception)
