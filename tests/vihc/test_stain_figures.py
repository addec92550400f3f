"""Pictures of evaluation: what they show, and what they refuse."""

import io

import numpy as np
import pandas as pd
import pytest

from past_vihc.agreement.plots import agreement_scatter, bland_altman_plot
from past_vihc.agreement.statistics import Estimate, bland_altman, pearson
from past_vihc.evaluation.dab import BINS
from past_vihc.evaluation.similarity import psnr, ssim
from past_vihc.figures.curves import dab_curves, metric_by_case
from past_vihc.figures.panels import FigureError, stain_panels


def drawn(figure: object) -> None:
    with io.BytesIO() as file:
        figure.savefig(file, dpi=30, format="png")
        assert file.getvalue()[:4] == b"\x89PNG"


@pytest.fixture
def tiles() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    names = ("H&E", "RegGAN", "PAST", "real")
    return {name: random.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8) for name in names}


def test_panels_show_tiles_in_order_with_their_figures(tiles: dict) -> None:
    figure = stain_panels(tiles, real="real", rows=["P8", "P9"], heading="ER", bar_um=2, mpp=0.5)
    axes = figure.axes
    assert [axis.get_title() for axis in axes[:4]] == list(tiles)
    assert [axes[0].get_ylabel(), axes[4].get_ylabel()] == ["P8", "P9"]
    for column, name in enumerate(tiles):
        np.testing.assert_array_equal(
            axes[4 + column].images[0].get_array(), tiles[name][1].transpose(1, 2, 0)
        )
    first, second = (float(f(tiles["PAST"][1], tiles["real"][1])) for f in (psnr, ssim))
    assert axes[6].get_xlabel() == f"{first:.1f} dB, SSIM {second:.2f}"
    assert axes[4].get_xlabel() == axes[7].get_xlabel() == ""
    line = axes[0].lines[0].get_xdata()
    assert line[1] - line[0] == 4, "2 µm are 4 px"
    drawn(figure)


def test_panels_refuse_what_does_not_fit(tiles: dict) -> None:
    with pytest.raises(FigureError, match=r"PAST: .*expected the same tiles"):
        stain_panels(tiles | {"PAST": tiles["PAST"][:1]})
    with pytest.raises(FigureError, match=r"expected .* uint8"):
        stain_panels(tiles | {"real": tiles["real"] / 255})
    with pytest.raises(FigureError, match="no column 'truth'"):
        stain_panels(tiles, real="truth")
    with pytest.raises(FigureError, match="1 names for 2 rows"):
        stain_panels(tiles, rows=["a"])
    with pytest.raises(FigureError, match="at most 400"):
        stain_panels({name: np.zeros((300, 3, 4, 4), np.uint8) for name in "ab"})


def test_scatter_has_an_identity_line_and_r() -> None:
    x, y = np.array([0.0, 100, 200, 300]), np.array([10.0, 90, 220, 280])
    r = pearson(x, y)
    figure = agreement_scatter(
        x, y, r=r, ccc=Estimate(None, why="said"), hscore=True, group=["a", "a", "b", "b"]
    )
    axis = figure.axes[0]
    identity = axis.lines[-1]
    np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
    assert axis.get_xlim() == axis.get_ylim() == (-6, 306)
    assert f"r = {r.value:.2f} ({r.low:.2f} to {r.high:.2f})" in axis.texts[0].get_text()
    assert "CCC undefined" in axis.texts[0].get_text()
    assert [text.get_text() for text in axis.get_legend().texts] == ["a", "b"]
    points = np.concatenate([dots.get_offsets() for dots in axis.collections])
    np.testing.assert_array_equal(points, np.stack([x, y], axis=1))
    drawn(figure)


def test_bland_altman_shows_the_limits() -> None:
    x, y = np.array([0.0, 100, 200, 300, 40]), np.array([10.0, 90, 220, 280, 41])
    found = bland_altman(x, y)
    figure = bland_altman_plot(x, y, bias=found.bias, lower=found.lower, upper=found.upper)
    axis = figure.axes[0]
    heights = {round(float(line.get_ydata()[0]), 6) for line in axis.lines}
    assert {round(e.value, 6) for e in (found.bias, found.lower, found.upper)} <= heights
    np.testing.assert_allclose(axis.collections[0].get_offsets(), np.stack([(x + y) / 2, y - x], axis=1))
    low, high = axis.get_ylim()
    assert low < found.lower.low < found.upper.high < high
    drawn(figure)
    with pytest.raises(FigureError, match="not finite"):
        agreement_scatter(x, y * np.nan, r=found.bias)
    with pytest.raises(FigureError, match="2 names of groups for 5"):
        agreement_scatter(x, y, r=found.bias, group=["a", "b"])


def test_curves() -> None:
    tables = {
        "PAST": pd.DataFrame({"case": ["A", "B"], "ssim": [0.5, 0.7]}),
        "none": pd.DataFrame({"case": ["B", "A"], "ssim": [0.6, np.nan]}),
    }
    axis = metric_by_case(tables, metric="ssim", label="SSIM").axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.6", "0.6"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["PAST", "none"]
    np.testing.assert_array_equal(axis.lines[1].get_ydata(), [0.7, 0.6])
    drawn(axis.figure)
    with pytest.raises(FigureError, match="no column 'psnr'"):
        metric_by_case(tables, metric="psnr", label="")
    with pytest.raises(FigureError, match="no case has a value"):
        metric_by_case({"x": tables["none"].iloc[1:]}, metric="ssim", label="")
    counts = np.zeros(BINS)
    counts[[0, 3]] = 30, 10
    figure = dab_curves({"real": counts, "PAST": counts[::-1]})
    assert figure.axes[0].patches[0].get_data()[0][3] == 0.25
    drawn(figure)
    with pytest.raises(FigureError, match=r"shape \(3,\)"):
        dab_curves({"real": np.ones(3)})
