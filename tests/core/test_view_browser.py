"""The page of `past view` in headless Chromium: what is seen, and what a click shows."""

import re
import threading
from collections.abc import Iterator
from urllib.parse import quote

import numpy as np
import pytest
import shapely
from made_view import view_slide

from made_browser import CHROMIUM, SIZE, Browser
from past_core.ingest.write import SlideData, write_store
from past_core.slides import open_slide
from past_core.view.colours import CELLS, NUCLEI, REASONS, viridis
from past_core.view.server import ViewServer

QC = REASONS[0]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def slide() -> SlideData:
    return view_slide()


@pytest.fixture(scope="module")
def url(slide: SlideData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = write_store(slide, tmp_path_factory.mktemp("view") / "s.zarr", block_size=400)
    with open_slide(path) as opened, ViewServer(opened) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(autouse=True)
def quiet(browser: Browser, url: str) -> Iterator[None]:
    """No test leaves an error in the browser's console, or asks anything of another server."""
    browser.noted.clear()
    browser.requested.clear()
    yield
    assert browser.noted == []
    assert [
        address for address in browser.requested if not address.startswith((url, "about:", "data:"))
    ] == []


X, Y, ZOOM = 550, 640, 2.0


def place(x: float, y: float) -> tuple[float, float]:
    """Where a level-0 pixel is on the screen when (X, Y) is in its middle."""
    return SIZE[0] / 2 + (x - X) * ZOOM, SIZE[1] / 2 + (y - Y) * ZOOM


def on_slide(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The reverse: (n, 2) level-0 pixels of the screen's pixels."""
    return np.stack([columns + 0.5 - SIZE[0] / 2, rows + 0.5 - SIZE[1] / 2], axis=1) / ZOOM + [X, Y]


def near(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> np.ndarray:
    return (np.abs(pixels.astype(int) - colour) <= tolerance).all(axis=-1)


def free(pixels: np.ndarray) -> np.ndarray:
    """The part of the screen that no card covers."""
    return pixels[100:700, 330:940]


def test_the_tissue_is_where_the_address_says(browser: Browser, url: str, slide: SlideData) -> None:
    browser.open(f"{url}#x={X}&y={Y}&zoom={ZOOM}&layers=he")
    pixels = browser.screenshot()
    for x, y in [(500, 600), (600, 700), (660, 560)]:
        column, row = (int(value) for value in place(x + 0.5, y + 0.5))
        assert np.abs(pixels[row, column].astype(int) - slide.image[:, y, x]).max() <= 8
    assert not near(free(pixels), CELLS).any()


def test_outlines_lie_over_the_tissue(browser: Browser, url: str, slide: SlideData) -> None:
    browser.open(f"{url}#x={X}&y={Y}&zoom={ZOOM}&layers=he,cells,nuclei")
    with_layers = browser.screenshot()
    for frame, colour in ((slide.cell_boundaries, CELLS), (slide.nucleus_boundaries, NUCLEI)):
        found = near(with_layers, colour, 70)
        assert free(found).sum() > 1000
        rows, columns = np.nonzero(free(found))
        xy = np.stack([columns + 330 + 0.5 - SIZE[0] / 2, rows + 100 + 0.5 - SIZE[1] / 2], axis=1) / ZOOM + [
            X,
            Y,
        ]
        lines = shapely.union_all([shape.boundary for shape in frame.geometry])
        assert shapely.distance(shapely.points(xy[::7]), lines).max() < 1.8


def test_layers_switch_on_and_off_by_key_and_by_box(browser: Browser, url: str) -> None:
    browser.open(f"{url}#x={X}&y={Y}&zoom={ZOOM}&layers=he")
    for key, name, colour in (("2", "cells", CELLS), ("3", "nuclei", NUCLEI), ("4", "qc", QC)):
        for switch in (
            lambda key=key: browser.press(key),
            lambda name=name: browser.run(f"document.getElementById('layer-{name}').click()"),
        ):
            for shown in (True, False):
                switch()
                browser.settle()
                assert (near(free(browser.screenshot()), colour, 75).sum() > 300) == shown
                assert browser.run(f"document.getElementById('layer-{name}').checked") == shown
                assert (f"he,{name}" in browser.run("location.hash")) == shown
    browser.press("1")
    browser.settle()
    assert free(browser.screenshot()).std(axis=(0, 1)).max() < 2  # nothing but the background


def test_opacity(browser: Browser, url: str) -> None:
    browser.open(f"{url}#x={X}&y={Y}&zoom={ZOOM}&layers=he,qc")
    strong = near(free(browser.screenshot()), QC, 75).sum()
    browser.run(
        "const slider = document.querySelectorAll('#layers input[type=range]')[3]; slider.value = 20;"
        "slider.dispatchEvent(new Event('input'))"
    )
    browser.settle()
    assert near(free(browser.screenshot()), QC, 75).sum() < strong / 10


def test_flags_are_counted_in_the_legend(browser: Browser, url: str, slide: SlideData) -> None:
    browser.open(f"{url}#layers=he,qc")
    empty = int((slide.table.X.sum(axis=1) == 0).sum())
    text = browser.run("document.getElementById('quality').innerText").split("\n")
    passed = f"{slide.table.n_obs - empty} of {slide.table.n_obs}"
    assert [part.strip() for part in text if part.strip()] == [
        "Quality control", "No genes", str(empty), "Pass", passed,
    ]  # fmt: skip


def test_a_gene_is_typed_chosen_and_shown(browser: Browser, url: str, slide: SlideData) -> None:
    browser.open(f"{url}#x={X}&y={Y}&zoom={ZOOM}&layers=he")
    browser.press("5")
    assert browser.run("document.activeElement.id") == "gene"
    for key in ("G", "1", "2"):
        browser.press(key)
    browser.until("document.querySelectorAll('#genes li').length === 1")
    browser.press("Enter")
    browser.until("!document.getElementById('legend').hidden")
    browser.settle()
    counts = slide.table.X.toarray().astype(float)
    values = np.log1p(1e4 * counts[:, 12] / np.maximum(counts.sum(axis=1), 1))
    top = np.quantile(values[values > 0], 0.99)
    assert f"{top:.2f}" in browser.run("document.getElementById('high').textContent")
    said = browser.run("document.getElementById('expressing').textContent")
    assert f"in {np.count_nonzero(values)} of {len(values)} cells" in said
    assert "gene=G12" in browser.run("location.hash")
    browser.run("layers.expression.item.setOpacity(1)")
    browser.settle()
    pixels, checked = browser.screenshot(), 0
    for (x, y), value in zip(slide.table.obsm["spatial"], values, strict=True):
        column, row = (round(number) for number in place(x, y))
        if 330 < column < 940 and 100 < row < 700:
            assert np.abs(pixels[row, column].astype(int) - viridis(np.array(value / top))).max() <= 6
            checked += 1
    assert checked > 20


def test_a_click_shows_the_cell_and_its_top_genes(browser: Browser, url: str, slide: SlideData) -> None:
    browser.open(f"{url}#x={X}&y={Y}&zoom={ZOOM}&layers=he,cells")
    xy = slide.table.obsm["spatial"]
    number = int(np.argmin(np.hypot(*(xy - [X + 60, Y + 40]).T) + 1e6 * (slide.table.X.sum(axis=1).A1 == 0)))
    assert browser.run("document.getElementById('cell').hidden")
    browser.click(*place(*xy[number]))
    browser.until("!document.getElementById('cell').hidden")
    browser.settle()
    name = slide.table.obs_names[number]
    assert browser.run("document.getElementById('cell-id').textContent") == name
    assert browser.run("document.getElementById('cell-state').textContent") == "passes QC"
    facts = browser.run("document.getElementById('cell-facts').innerText").replace("\n", " ")
    counts = slide.table.X.toarray()[number]
    for fact in (
        f"Position {xy[number][0] / 2:.1f}, {xy[number][1] / 2:.1f} µm",
        f"Counts {counts.sum()}",
        f"Genes {np.count_nonzero(counts)}",
        f"Cell area {slide.table.obs['cell_area_um2'].iloc[number]:.1f} µm²",
    ):
        assert fact in " ".join(facts.split())
    best = sorted(range(len(counts)), key=lambda gene: (-counts[gene], gene))[:10]
    listed = browser.run(
        "[...document.querySelectorAll('#cell-genes li')].map(row => [...row.querySelectorAll('span')]"
        ".map(span => span.textContent).join(' '))"
    )
    assert listed == [f"G{gene} {counts[gene]}" for gene in best if counts[gene]]
    # Its outline is marked, where it is.
    rows, columns = np.nonzero(near(browser.screenshot(), (230, 25, 75), 20))
    assert len(rows) > 80
    shape = slide.cell_boundaries.geometry.iloc[number]
    assert shapely.distance(shapely.points(on_slide(rows, columns)), shape).max() < 2
    # The address leads back to it.
    address = browser.run("location.href")
    browser.open(address)
    assert browser.run("document.getElementById('cell-id').textContent") == name
    # A click beside every cell closes the panel.
    browser.click(*place(*_gap(slide)))
    browser.until("document.getElementById('cell').hidden")


def _gap(slide: SlideData) -> tuple[float, float]:
    """A place near the middle that lies in no cell."""
    cells = shapely.union_all(list(slide.cell_boundaries.geometry)).buffer(3)
    for step in range(200):
        point = shapely.Point(X + step, Y)
        if not cells.contains(point):
            return point.x, point.y
    raise AssertionError("no gap")


def test_a_cell_that_fails_says_why(browser: Browser, url: str, slide: SlideData) -> None:
    name = slide.table.obs_names[9]
    browser.open(f"{url}#cell={quote(name, safe='')}")
    assert browser.run("document.getElementById('cell-state').textContent") == "fails QC: No genes"
    assert browser.run("document.getElementById('cell-genes').innerText").strip() == "no counts"
    x, y = (float(re.search(rf"{axis}=([0-9.]+)", browser.run("location.hash"))[1]) for axis in "xy")
    assert (
        np.hypot(*(slide.table.obsm["spatial"][9] - [x, y])) < 120
    )  # it is led to, within the slide's borders


def test_the_scale_bar_measures(browser: Browser, url: str) -> None:
    for zoom in (0.7, 2.0, 7.0):
        browser.open(f"{url}#x={X}&y={Y}&zoom={zoom}")
        text = browser.run("document.getElementById('scale-text').textContent")
        width = browser.run("document.getElementById('scale-bar').getBoundingClientRect().width")
        length = float(text.removesuffix(" µm"))
        assert width == pytest.approx(length / 0.5 * zoom, rel=0.02)
        assert 48 <= width <= 121


@pytest.mark.parametrize("size", [(360, 560), (640, 420), (1900, 1000)])
def test_small_and_large_windows(browser: Browser, url: str, slide: SlideData, size: tuple[int, int]) -> None:
    try:
        browser.resize(*size)
        browser.open(f"{url}#cell={quote(slide.table.obs_names[7], safe='')}&gene=G3&layers=he,qc,expression")
        cards = browser.run(
            "[...document.querySelectorAll('.card')].filter(card => !card.hidden).map(card => {"
            "const r = card.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom,"
            "card.scrollWidth - card.clientWidth]; })"
        )
        assert len(cards) == 4
        for left, top, right, bottom, over in cards:
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]
            assert over <= 0
    finally:
        browser.resize(*SIZE)
