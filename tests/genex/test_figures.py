"""Pictures: what they show, and what they refuse."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from past_genex.figures.clusters import UNKNOWN, cluster_maps, confusion, palette
from past_genex.figures.distribution import r_distribution
from past_genex.figures.maps import gene_maps
from past_genex.figures.space import FigureError, bar_length, point_area


@pytest.fixture
def places() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, [400, 300], (120, 2))


def drawn(figure: object) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, dpi=40, format="png")
        return file.getvalue()


def test_maps_share_a_scale_and_print_r(places: np.ndarray) -> None:
    measured = np.stack([places[:, 0] / 100, np.full(120, np.nan)], axis=1)
    predicted = np.stack([-places[:, 0] / 50, places[:, 1]], axis=1)
    figure = gene_maps(places, measured, predicted, titles=["EPCAM", "PTPRC"])
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == [
        "EPCAM, measured", "predicted, r = \N{MINUS SIGN}1.00", "PTPRC, not measured", "predicted, r: n/a",
    ]  # fmt: skip
    left, right = (axis.collections[-1].get_clim() for axis in panels[:2])
    assert left == right
    both = np.concatenate([measured[:, 0], predicted[:, 0]])
    assert left == pytest.approx(tuple(np.percentile(both, [1, 99])))
    low, high = panels[0].get_ylim()
    assert low > high, "y goes down, as in the image"
    assert panels[0].get_aspect() == 1
    assert drawn(figure)[:4] == b"\x89PNG"


def test_maps_refuse_what_does_not_fit(places: np.ndarray) -> None:
    values = np.zeros((120, 1))
    with pytest.raises(FigureError, match="2 titles"):
        gene_maps(places, values, values, titles=["a", "b"])
    with pytest.raises(FigureError, match="predicted has 3 rows"):
        gene_maps(places, values, values[:3], titles=["a"])
    with pytest.raises(FigureError, match="1 of 120 places"):
        gene_maps(np.where(np.arange(120)[:, None] == 4, np.nan, places), values, values, titles=["a"])
    with pytest.raises(FigureError, match="no gene"):
        gene_maps(places, values[:, :0], values[:, :0], titles=[])


@given(st.floats(1e-2, 1e6))
def test_scale_bar_is_a_round_number_that_fits(extent: float) -> None:
    bar = bar_length(extent)
    assert extent / 10.1 <= bar <= extent / 4 * (1 + 1e-6)
    assert float(f"{bar:.0e}"[0]) in (1, 2, 5)


def test_points_shrink_with_density() -> None:
    random = np.random.default_rng(1)
    areas = [point_area(random.uniform(0, 1000, (n, 2)), longest=3) for n in (200, 2000, 20000)]
    assert areas[0] > areas[1] > areas[2] > 0


def test_distribution_states_means_and_missing_genes() -> None:
    r = {"probe": np.array([0.1, 0.5, 0.6, np.nan]), "mean": np.zeros(4)}
    figure = r_distribution(r, ceiling=np.array([0.7, 0.8, 0.9, 0.9]))
    axis = figure.axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [
        "probe\n(3 genes)", "mean\n(4 genes)", "noise ceiling\n(4 genes)",
    ]  # fmt: skip
    assert [text.get_text() for text in axis.texts] == ["0.400", "0.000", "0.825", "mean"]
    drawn(figure)
    with pytest.raises(FigureError, match="'x' has no gene"):
        r_distribution({"x": np.full(3, np.nan)})
    with pytest.raises(FigureError, match="no system"):
        r_distribution({})


def test_confusion_prints_counts_shares_and_genes() -> None:
    figure = confusion(
        np.array([[3, 1], [0, 4]]), rows=["0", "1"], columns=["0", "1"],
        pcc=np.array([[0.5, np.nan], [-0.25, 1]]), genes=np.array([[8, 2], [9, 7]]),
    )  # fmt: skip
    cells, pcc = figure.axes[:2]
    assert [text.get_text() for text in cells.texts] == ["3\n75%", "1\n25%", "", "4\n100%"]
    assert [text.get_text() for text in pcc.texts] == [
        "0.50\n(8)", "n/a\n(2)", "\N{MINUS SIGN}0.25\n(9)", "1.00\n(7)",
    ]  # fmt: skip
    with pytest.raises(FigureError, match="pcc has shape"):
        confusion(np.zeros((2, 2)), rows=["0", "1"], columns=["0", "1"], pcc=np.zeros((2, 3)))


def test_cluster_maps_colour_alike(places: np.ndarray) -> None:
    from matplotlib.colors import to_hex

    labels = np.where(places[:, 0] > 200, "10", "9")
    figure = cluster_maps(places, {"a": labels, "b": np.where(places[:, 1] > 100, labels, "")})
    legends = [axis.get_legend() for axis in figure.axes]
    colours = [
        {
            t.get_text().split(" ")[0]: to_hex(h.get_color())
            for t, h in zip(g.texts, g.legend_handles, strict=True)
        }
        for g in legends
    ]
    assert list(colours[0]) == ["9", "10"], "numbers in their order"
    assert colours[1] == {**colours[0], "none": UNKNOWN}
    with pytest.raises(FigureError, match="has 3 rows"):
        cluster_maps(places, {"a": ["x"] * 3})


@pytest.mark.parametrize("n", [1, 10, 20, 37])
def test_palette_is_distinct(n: int) -> None:
    assert len(set(palette(n))) == n
