"""What putting windows together costs: beside computing them, and beside full-size accumulators.

`blending` runs one way of blending in a process of its own, so that its peak memory is its own. Windows are
cut from one periodic image, so neighbours agree and the result is known: the image again. Both ways write
their result as raw bytes into a temporary file.

`overhead` stains a slide once with a generator and its encoder that note what they are given; then, in turn,
the slide is stained and what was noted is computed again without anything around it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.memory import peak_gib

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_vihc.stain_model import StainModel
    from past_vihc.wsi.grid import Grid

Way = Literal["strips", "accumulators"]
TILE, OVERLAP = 256, 0.25
PERIOD = 4096
STRIP = 1024


def blending(way: Way, side: int, *, tile: int = TILE) -> dict[str, float]:
    """Blends the windows of a square image in a process of its own.

    Args:
        way: "strips" is PAST's; "accumulators" sums weighted windows and weights in float32 arrays of the
            image's size, and divides at the end.
        side: of the image in pixels.
        tile: side of a window; neighbours share a quarter.

    Returns:
        seconds, megapixels a second, peak resident memory in GiB (of which `base_gib` before it began), and
        whether all sampled pixels are right.

    Raises:
        RuntimeError: the process failed; a machine without the memory kills it.
    """
    command = [sys.executable, "-m", "benchmarks.stitching", way, str(side), str(tile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} at {side} px ended with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def overhead(
    slide: Path, model: "StainModel", encoder: "FrozenEncoder | None" = None, *, rounds: int = 3
) -> dict[str, float]:
    """What staining a slide takes beyond computing its windows.

    Staining is all that `past stain` does: finding the tissue, reading, embedding, generating, blending,
    keeping strips, and writing the OME-TIFF.

    Args:
        slide: an H&E slide.
        model: the generator.
        encoder: what it is conditioned on.
        rounds: how often both are timed in turn.

    Returns:
        median seconds of both, the median share by which staining takes longer, and the number of windows.
    """
    from past_vihc.wsi.output import plan_outputs
    from past_vihc.wsi.stainer import stain_slide

    generator, embedder = _Noting(model), None if encoder is None else _Noting(encoder)
    stain = model.stains[0]
    with tempfile.TemporaryDirectory() as folder:
        outputs = plan_outputs(Path(folder) / "stain.ome.tif", overwrite=True)

        def whole(with_model: Any, with_encoder: Any) -> None:
            from past_vihc.wsi.settings import StainSettings

            stain_slide(slide, outputs, with_model, with_encoder, settings=StainSettings(stain=stain))

        def pure() -> None:
            for images, *_ in [] if embedder is None else embedder.calls:
                encoder(images)
            for windows, embedding in generator.calls:
                model(windows, embedding, stain=stain)

        whole(generator, embedder)  # also warms up
        both, alone, shares = [], [], []
        for _ in range(rounds):
            start = time.perf_counter()
            whole(model, encoder)
            middle = time.perf_counter()
            pure()
            end = time.perf_counter()
            both.append(middle - start)
            alone.append(end - middle)
            shares.append(both[-1] / alone[-1] - 1)
    return {
        "stain_s": statistics.median(both),
        "inference_s": statistics.median(alone),
        "overhead": statistics.median(shares),
        "windows": sum(len(windows) for windows, *_ in generator.calls),
    }


class _Noting:
    """Passes calls on, and keeps what they were given."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *given: Any, **options: Any) -> Any:
        self.calls.append(given)
        return self._inner(*given, **options)


class _Windows:
    """Windows of a periodic image."""

    def __init__(self, grid: "Grid") -> None:
        self.stride, self.tile = grid.stride, grid.tile
        base = np.random.default_rng(0).integers(0, 256, (3, PERIOD, PERIOD), dtype=np.uint8)
        self.base = np.pad(base, ((0, 0), (0, self.tile), (0, self.tile)), mode="wrap")

    def __call__(self, row: int, column: int) -> np.ndarray:
        y, x = row * self.stride % PERIOD, column * self.stride % PERIOD
        return self.base[:, y : y + self.tile, x : x + self.tile]

    def right(self, image: np.ndarray, top: int) -> bool:
        """Whether rows of the result, `(3, h, w)` from row `top` on, are the periodic image's."""
        rows = np.arange(top, top + image.shape[1]) % PERIOD
        return bool(np.array_equal(image, self.base[:, rows][:, :, np.arange(image.shape[2]) % PERIOD]))


def _strips(grid: "Grid", windows: _Windows, folder: Path) -> bool:
    from past_vihc.wsi.blend import Blender, block_edges
    from past_vihc.wsi.work import StripImage, StripWriter

    rows, columns = grid.rows, grid.columns
    per_strip = max(1, round(STRIP / rows.stride))
    starts = [*range(0, rows.count, per_strip), rows.count]
    edges = [rows.first(row) for row in starts]
    active = np.ones((rows.count, columns.count), bool)
    writer: StripWriter | None = None

    def sink(y: int, x: int, block: np.ndarray) -> None:
        writer.write(y, x, block)

    blender = Blender(grid, active, sink)
    paths = [folder / f"{strip}.raw" for strip in range(len(starts) - 1)]
    for strip, path in enumerate(paths):
        with path.open("w+b") as file:
            writer = StripWriter(file, edges[strip], (edges[strip + 1] - edges[strip], columns.size), 255)
            for row in range(starts[strip], starts[strip + 1]):
                for start, stop in blender.segments():
                    blender.segment(row, (start, stop), {c: windows(row, c) for c in range(start, stop)})
    # A few rows: all of them would take longer than the work.
    image = StripImage(paths, edges, *block_edges(grid), 255)
    return all(windows.right(image[:, y : y + 8, :], y) for y in range(0, rows.size - 8, rows.size // 7))


def _accumulators(grid: "Grid", windows: _Windows, folder: Path) -> bool:
    rows, columns = grid.rows, grid.columns
    shape = tuple((axis.count - 1) * axis.stride + axis.tile for axis in (rows, columns))
    shared = grid.tile - grid.stride
    ramp = (np.arange(shared, dtype=np.float32) + 0.5) / shared
    edge = np.concatenate([ramp, np.ones(grid.tile - 2 * shared, np.float32), ramp[::-1]])
    weight = np.outer(edge, edge)
    total, weights = np.zeros((3, *shape), np.float32), np.zeros(shape, np.float32)
    for row in range(rows.count):
        for column in range(columns.count):
            y, x = row * grid.stride, column * grid.stride
            total[:, y : y + grid.tile, x : x + grid.tile] += windows(row, column) * weight
            weights[y : y + grid.tile, x : x + grid.tile] += weight
    total /= weights
    np.rint(total, out=total)
    image = total.astype(np.uint8)[:, : rows.size, : columns.size]
    with (folder / "out.raw").open("wb") as file:
        image.tofile(file)
    return all(windows.right(image[:, y : y + 8], y) for y in range(0, rows.size - 8, rows.size // 7))


def _main() -> None:
    from past_vihc.wsi.grid import make_grid

    parser = argparse.ArgumentParser(description="Blends once and prints what it took (called by blending).")
    parser.add_argument("way", choices=("strips", "accumulators"))
    parser.add_argument("side", type=int)
    parser.add_argument("tile", type=int)
    given = parser.parse_args()
    grid = make_grid(given.side, given.side, tile=given.tile, overlap=OVERLAP)
    windows = _Windows(grid)
    base = peak_gib()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        right = (_strips if given.way == "strips" else _accumulators)(grid, windows, Path(folder))
        seconds = time.perf_counter() - start
    found = {
        "seconds": seconds,
        "mpx_s": given.side**2 / 1e6 / seconds,
        "peak_gib": peak_gib(),
        "base_gib": base,
        "right": right,
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _main()
