"""What each window is conditioned on, and that every node is embedded once."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_stainer import draw_slide, write_slide

from past_core.slides import open_slide, patches
from past_vihc.wsi.conditioning import CellConditioning, ConditioningError, TileConditioning
from past_vihc.wsi.grid import make_grid
from past_vihc.wsi.windows import ahead, batches, read_windows


class Encoder(SimpleNamespace):
    """Mean, spread and a corner's value of what it sees; remembers how often it saw what."""

    name, dim, mpp, patch_size, device = "means", 3, 0.5, 16, torch.device("cpu")

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        pixels = torch.as_tensor(images).float()
        self.seen.update(image.tobytes() for image in np.asarray(images))
        return torch.stack([pixels.mean((1, 2, 3)), pixels.std((1, 2, 3)), pixels[:, 0, 0, 0]], dim=1)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Noise everywhere, so that no two fields are equal.
    image = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    return write_slide(tmp_path_factory.mktemp("slide") / "he.tif", image)


def embedded(slide: object, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    images = patches(slide, np.stack([x.ravel(), y.ravel()], axis=1), mpp=0.5, size=16)
    return Encoder(seen=Counter())(images).numpy().reshape(*x.shape, 3)


def test_tiles_are_seen_at_their_centres(slide: Path) -> None:
    with open_slide(slide) as opened:
        view = opened.at(1.0)  # half the resolution: points are in level-0 pixels
        grid = make_grid(view.height, view.width, tile=64)
        active = np.random.default_rng(1).random((grid.rows.count, grid.columns.count)) < 0.6
        made = TileConditioning(opened, view, grid, active, Encoder(seen=Counter()), batch_size=2)
        for row in range(grid.rows.count):
            x = (np.flatnonzero(active[row]) * 48 + 32) * 2.0
            expected = embedded(opened, x, np.full_like(x, (row * 48 + 32) * 2.0))
            np.testing.assert_array_equal(made.row(row), expected)


@pytest.mark.parametrize("start", [0, 3])
def test_nodes_are_shared_and_embedded_once(slide: Path, start: int) -> None:
    with open_slide(slide) as opened:
        view = opened.at(0.5)
        grid = make_grid(view.height, view.width, tile=64, step=16)
        active = np.random.default_rng(2).random((grid.rows.count, grid.columns.count)) < 0.4
        encoder = Encoder(seen=Counter())
        made = CellConditioning(opened, view, grid, active, encoder, batch_size=7, step=16)
        for row in range(start, grid.rows.count):
            columns = np.flatnonzero(active[row])
            found = made.row(row)
            assert found.shape == (len(columns), 3, 5, 5)
            for column, values in zip(columns, found, strict=True):
                y, x = np.mgrid[:5, :5] * 16.0
                expected = embedded(opened, x + column * 48, y + row * 48)
                np.testing.assert_array_equal(values, np.moveaxis(expected, 2, 0))
        white = np.full((3, 16, 16), 255, np.uint8).tobytes()  # nodes beyond the slide
        assert {count for field, count in encoder.seen.items() if field != white} == {1}


def test_nodes_that_do_not_divide_windows_are_refused(slide: Path) -> None:
    with open_slide(slide) as opened:
        view = opened.at(0.5)
        grid = make_grid(view.height, view.width, tile=64)
        with pytest.raises(ConditioningError, match="every 20 px"):
            CellConditioning(opened, view, grid, np.ones((9, 9), bool), None, batch_size=1, step=20)


def test_a_vector_that_is_not_finite_is_refused(slide: Path) -> None:
    class Broken(Encoder):
        def __call__(self, images: np.ndarray) -> torch.Tensor:
            return super().__call__(images) * torch.nan

    with open_slide(slide) as opened:
        view = opened.at(0.5)
        grid = make_grid(view.height, view.width, tile=64)
        active = np.ones((grid.rows.count, grid.columns.count), bool)
        made = TileConditioning(opened, view, grid, active, Broken(seen=Counter()), batch_size=4)
        with pytest.raises(ConditioningError, match="means gives NaN or infinity at x 32, y 32"):
            made.row(0)


def test_windows_are_read_as_they_lie_and_mirrored_past_the_border(tmp_path: Path) -> None:
    image = draw_slide(130, 170)
    with open_slide(write_slide(tmp_path / "he.tif", image)) as opened:
        view = opened.at(0.5)
        grid = make_grid(130, 170, tile=64)
        assert (grid.rows.count, grid.columns.count) == (3, 4)
        mirrored = np.pad(image, ((0, 64), (0, 64), (0, 0)), mode="symmetric").transpose(2, 0, 1)
        for row in range(3):
            for columns in (np.array([0, 1, 2, 3]), np.array([3]), np.array([0, 3])):
                found = read_windows(view, grid, row, columns)
                for column, window in zip(columns, found, strict=True):
                    y, x = row * 48, column * 48
                    np.testing.assert_array_equal(window, mirrored[:, y : y + 64, x : x + 64])


def test_a_slide_smaller_than_a_window_is_mirrored_as_often_as_needed(tmp_path: Path) -> None:
    image = draw_slide(20, 90)
    with open_slide(write_slide(tmp_path / "he.tif", image)) as opened:
        view = opened.at(0.5)
        grid = make_grid(20, 90, tile=64)
        found = read_windows(view, grid, 0, np.array([0]))[0]
    expected = np.pad(image, ((0, 44), (0, 0), (0, 0)), mode="symmetric").transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected[:, :, :64])


def test_batches_never_mix_rows() -> None:
    active = np.zeros((2, 10), bool)
    active[1, [0, 2, 3, 7, 9]] = True
    assert batches(active, 0, 2) == []
    assert [part.tolist() for part in batches(active, 1, 2)] == [[0, 2], [3, 7], [9]]


def test_reading_ahead_keeps_the_order_and_passes_errors_on() -> None:
    assert list(ahead(lambda n: n * n, range(9))) == [(n, n * n) for n in range(9)]

    def work(n: int) -> float:
        return 1 / (n - 3)

    taken = []
    with pytest.raises(ZeroDivisionError):
        taken.extend(ahead(work, range(9)))
