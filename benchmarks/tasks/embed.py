"""How fast does `past embed` work through a slide, against the usual loop over tiles?

Both ways embed the same cells of one slide store and the same tiles of one image, with the same encoder, and
must give the same vectors. Rates are patches per second of processor time, all threads counted; wall time
stands beside them.

- usual: one patch at a time, cut from the chunked level by zarr-python (a TIFF by way of tifffile),
  through PIL, ToTensor and Normalize, stacked to a batch.
- PAST: the whole of `past embed` after the encoder is loaded: regions read once, uint8 patches normalised in
  the encoder, every vector checked and kept beside the output.

The encoder `none` (means of 4 x 4 fields) costs next to nothing and so measures supply; `demo` is the encoder
that ships with the package.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import zarr
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task, at_least, at_most, encoders
from past_core.embed.vectors import embed_patches
from past_core.encoders import FrozenEncoder, load_image_encoder
from past_core.models.image_encoder import IMAGENET_MEAN, IMAGENET_STD
from past_core.slides import Slide, open_slide, tile_grid
from past_core.slides.patches import patch_origin

TASK = Task(
    title="Speed of embedding",
    group="speed",
    data="cells of a synthetic slide; tiles of a small SVS where it is present, else of a synthetic TIFF",
    split="the usual loop: one patch at a time through zarr, PIL, ToTensor, Normalize",
    system="encoder",
    by="what",
    systems=("none", "demo"),
    metrics=(
        Metric("usual/s per core", ""),
        Metric("PAST/s per core"),
        Metric("ratio", unit="times the usual loop's speed"),
        Metric("apart", "lower", unit="largest difference of a vector"),
    ),
    plot=Plot("ratio", mark=1.0, log=True),
    tracked=(
        at_least("rows", "cells", "none", "ratio", share=0.4),
        at_least("rows", "cells", "demo", "ratio", share=0.4),
        at_most("details", "outcomes", "encoder=demo", "apart", times=50.0),
    ),
    wanted=(*encoders("uni", "conch", label="{}", run="past embed SLIDE.zarr --encoder {} -o cells.h5ad"),),
)

GOAL = 3.0
"""Supply of cells, times the usual way."""
BATCH, REPEATS = 64, 3
SAMPLE = {"full": {"none": 2048, "demo": 1024}, "ci": {"none": 512, "demo": 128}}
"""Most patches of a run, by encoder."""
LEAST = 512
"""Patches that a timed run of PAST makes at least, several times the same where there are fewer."""
SVS = Path(__file__).parents[3] / "shared" / "data" / "wsi" / "CMU-1-Small-Region.svs"


class NoEncoder:
    """Stands in for an encoder: the means of the channels over 4 x 4 fields."""

    name, fingerprint, precision = "none", "none", "32"
    mean, std, dim = IMAGENET_MEAN, IMAGENET_STD, 48
    device = torch.device("cpu")

    def __init__(self, mpp: float, patch_size: int = 224) -> None:
        self.mpp, self.patch_size = mpp, patch_size

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """Embeds uint8 patches; as cheap as can be, it looks at every eighth row and column."""
        pixels = torch.from_numpy(np.ascontiguousarray(images[:, :, ::8, ::8])).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return self.pool((pixels - mean) / std)

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """Embeds patches that are normalised already."""
        return self.pool(images[:, :, ::8, ::8])

    def pool(self, pixels: torch.Tensor) -> torch.Tensor:
        """Means of the fields: (B, 3, h, w) to (B, 48)."""
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)


@torch.no_grad()
def _demo_normalized(encoder: FrozenEncoder, images: torch.Tensor) -> torch.Tensor:
    return encoder._encoder.model(images)


@dataclass
class Work:
    """Patches to embed: of which slide, around which points, with what, and the level's pixels as zarr."""

    what: str
    encoder: Any
    normalized: Callable[[torch.Tensor], torch.Tensor]
    slide: Slide
    centres: np.ndarray
    pixels: zarr.Array
    channel_first: bool

    def past(self) -> np.ndarray:
        """As `past embed` does it."""
        with tempfile.TemporaryDirectory() as folder:
            names = [str(number) for number in range(len(self.centres))]
            output = Path(folder) / "a.h5ad"
            return embed_patches(
                self.slide, self.centres, names, self.encoder, BATCH, lambda done: None, output
            )

    def usual(self) -> np.ndarray:
        """As it is usually done."""
        size = self.encoder.patch_size
        transform = Compose([ToTensor(), Normalize(self.encoder.mean, self.encoder.std)])
        left, top = self._origins()
        out = []
        for start in range(0, len(left), BATCH):
            batch = []
            for x, y in zip(left[start : start + BATCH], top[start : start + BATCH], strict=True):
                if self.channel_first:
                    patch = self.pixels[:, y : y + size, x : x + size].transpose(1, 2, 0)
                else:
                    patch = self.pixels[y : y + size, x : x + size]
                batch.append(transform(Image.fromarray(patch).convert("RGB")))
            out.append(self.normalized(torch.stack(batch)).numpy())
        return np.concatenate(out)

    def _origins(self) -> tuple[list[int], list[int]]:
        place = self.centres / self.slide.at(self.encoder.mpp).downsample
        left, top = patch_origin(place[:, 0], place[:, 1], self.encoder.patch_size)
        return left.tolist(), top.tolist()

    def measure(self) -> dict[str, Any]:
        """Rates of both ways, medians of runs in turn, and how far apart their vectors are."""
        apart = float(np.abs(self.usual() - self.past()).max())  # and the file cache is warm
        n = len(self.centres)
        seconds: dict[str, list[tuple[float, float]]] = {"usual": [], "PAST": []}
        for _ in range(REPEATS):
            for way, work in (("usual", self.usual), ("PAST", self.past)):
                turns = 1 if way == "usual" else max(1, LEAST // n)
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(turns):
                    work()
                used = time.process_time() - cpu, time.perf_counter() - wall
                seconds[way].append((used[0] / turns, used[1] / turns))
        return {
            "what": self.what,
            "encoder": self.encoder.name,
            "input": f"{self.encoder.patch_size} px at {self.encoder.mpp:g}",
            "patches": n,
            "apart": apart,
            "per_core": {way: n / statistics.median(s[0] for s in runs) for way, runs in seconds.items()},
            "wall": {way: n / statistics.median(s[1] for s in runs) for way, runs in seconds.items()},
        }


def run(profile: str, data: Path | None = None) -> Report:
    """Embeds cells and tiles both ways.

    Args:
        profile: `ci` embeds fewer.
        data: folder of slide stores, the first of which is used instead of the embedded default.
    """
    if data is None:
        from past_core.synthetic.default import default_slides

        path = default_slides(patients=1)[0]
    else:
        path = min(data.glob("*.zarr"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, open_slide(path) as store:
            tiles = SVS if SVS.is_file() else _as_tiff(store, Path(folder) / "tiles.tif")
            with open_slide(tiles) as image:
                return _report(profile, [task.measure() for task in _tasks(profile, store, image)])
    finally:
        torch.set_num_threads(threads)


def _tasks(profile: str, store: Slide, image: Slide) -> list[Work]:
    demo = load_image_encoder("demo")
    cells = store.store.centroids[store.store.passed]
    levels = tifffile.imread(image.path, aszarr=True, series=0)
    group = zarr.open(levels, mode="r")
    whole = group if isinstance(group, zarr.Array) else group["0"]
    tasks = []
    for encoder in (NoEncoder(store.mpp), demo):
        normalized = encoder.normalized if isinstance(encoder, NoEncoder) else partial(_demo_normalized, demo)
        sample = SAMPLE[profile][encoder.name]
        view = store.at(encoder.mpp)
        number = next(i for i, level in enumerate(store.levels) if level.downsample >= 0.99 * view.downsample)
        level = zarr.open_array(store.path / "images" / "he" / f"s{number}", mode="r")
        inside = _inside(cells, encoder.patch_size, view.downsample, view.width, view.height)
        # Cells next to one another, as in a whole slide: a sample from all over would share no regions.
        tasks.append(Work("cells", encoder, normalized, store, cells[inside][:sample], level, True))
    for encoder in (NoEncoder(image.mpp), demo):
        normalized = encoder.normalized if isinstance(encoder, NoEncoder) else partial(_demo_normalized, demo)
        if abs(image.mpp / encoder.mpp - 1) > 0.01:
            continue  # the usual loop reads a level as it is
        grid = tile_grid(image, tile_um=encoder.mpp * encoder.patch_size)
        inside = _inside(grid.centres, encoder.patch_size, 1.0, image.width, image.height)
        sample = SAMPLE[profile][encoder.name]
        tasks.append(Work("tiles", encoder, normalized, image, grid.centres[inside][:sample], whole, False))
    return tasks


def _inside(points: np.ndarray, size: int, downsample: float, width: int, height: int) -> np.ndarray:
    """Usual loops do not pad: both ways are spared the patches at the borders."""
    left, top = patch_origin(points[:, 0] / downsample, points[:, 1] / downsample, size)
    return (left >= 0) & (top >= 0) & (left + size <= width) & (top + size <= height)


def _as_tiff(store: Slide, path: Path) -> Path:
    """The store's pixels as scanners write them: a tiled TIFF of JPEGs."""
    pixels = store.read(0, 0, 0, min(store.height, 3072), min(store.width, 3072)).transpose(1, 2, 0)
    per_cm = 1e4 / store.mpp
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="jpeg",
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
    )
    return path


def _report(profile: str, outcomes: list[dict[str, Any]]) -> Report:
    def ratio(outcome: dict[str, Any]) -> float:
        return outcome["per_core"]["PAST"] / outcome["per_core"]["usual"]

    supply = ratio(outcomes[0])
    equal = all(outcome["apart"] < 1e-3 for outcome in outcomes)
    rows = [
        [
            outcome["what"],
            outcome["encoder"],
            outcome["input"],
            f"{outcome['patches']:,}",
            f"{outcome['per_core']['usual']:,.0f}",
            f"{outcome['per_core']['PAST']:,.0f}",
            f"x {ratio(outcome):.1f}",
            f"{outcome['wall']['usual']:,.0f} / {outcome['wall']['PAST']:,.0f}",
            f"{outcome['apart']:.0e}",
        ]
        for outcome in outcomes
    ]
    columns = ["what", "encoder", "input", "patches", "usual/s per core", "PAST/s per core", "ratio"]
    return Report(
        name="embed",
        profile=profile,
        columns=[*columns, "wall/s", "apart"],
        rows=rows,
        goal=(
            f"the same vectors, and cells at least {GOAL:g} x as fast as usual without an encoder"
            + ("" if profile == "full" else " (below half fails)")
        ),
        figure=", ".join(f"{o['what']} with encoder {o['encoder']} x {ratio(o):.1f}" for o in outcomes),
        passed=equal and supply >= GOAL * (1.0 if profile == "full" else 0.5),
        details={"outcomes": outcomes, "batch_size": BATCH},
    )
