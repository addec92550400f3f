"""How fast do patches and tokens reach the step, against the ways they are usually read?

All ways deliver the same cells of the same slides: 224 px around each at full resolution. Rates are patches
per second of processor time, all threads counted, so that neither the number of cores nor what else the
machine does decides; wall time stands beside them.

- usual: one cell at a time in random order, cut from the chunked zarr by zarr-python, through PIL, ToTensor
  and Normalize; its tokens from one row of the counts at a time.
- pre-cut: one PNG file a cell, read by PIL into a uint8 batch; no tokens.
- in memory: the whole slide as one array, uint8 patches in random order into a fresh batch; no tokens.
- PAST: the training loader, batches of 256 from 4 open blocks, tokens of cells and neighbours included.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task, at_least, at_most, near
from past_core.data import supply as supply_module
from past_core.data.loader import DEPTH, READ_AHEAD, TrainLoader
from past_core.data.plan import EpochPlan
from past_core.data.supply import PatchSpec, RegionSupply, SlideSource, open_stores
from past_core.models.image_encoder import IMAGENET_MEAN, IMAGENET_STD
from past_core.tokens import GeneMeans, Vocabulary

TASK = Task(
    title="Speed of supplying patches and tokens",
    group="speed",
    data="embedded default: five synthetic patients, 15,882 cells",
    split="one cell at a time through zarr, PIL, ToTensor, Normalize; pre-cut PNG; slides in memory",
    system="way",
    systems=("usual", "pre-cut", "in memory", "PAST"),
    metrics=(
        Metric("patches/s per core"),
        Metric("ratio", unit="times the usual loader's speed"),
        Metric("MB read/patch", "lower"),
        Metric("MB on disk", "lower"),
    ),
    plot=Plot("ratio", mark=1.0, log=True),
    tracked=(
        at_least("rows", "PAST", "ratio", share=0.4),
        at_least("details", "tokens", "ratio", share=0.4),
        at_most("details", "memory", "peak", times=1.5),
        near("details", "bit_equal", within=0.0),
    ),
)

SIZE, MAX_GENES, BATCH, OPEN = 224, 300, 256, 4
GOALS = {"supply": 25.0, "tokens": 20.0}
TOKEN_SHARE = 0.10
SAMPLE = {"full": 1024, "ci": 256}
"""Cells that the slow ways read; the loader always deals whole epochs."""
REPEATS = {"full": 3, "ci": 3}


class Timer:
    """Processor seconds of all threads, and wall seconds, of a call."""

    def __init__(self, work: Callable[[], int]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.cells = work()
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu

    @property
    def per_core(self) -> float:
        """Cells per processor second."""
        return self.cells / self.cpu


class Slides:
    """The slides, and every way to read them."""

    def __init__(self, paths: list[Path], sample: int) -> None:
        self.stores = open_stores(paths)
        self.vocabulary = Vocabulary.from_panel(g for store in self.stores for g in store.genes.index)
        means = GeneMeans(len(self.vocabulary))
        for store in self.stores:
            means.update(store.counts, self.vocabulary.lookup(list(store.genes.index)))
        self.means = means.means
        self.sources = [
            SlideSource(
                store,
                spec=PatchSpec(mpp=store.mpp, size=SIZE),
                vocabulary=self.vocabulary,
                gene_means=self.means,
                max_genes=MAX_GENES,
            )
            for store in self.stores
        ]
        self.blocks = [block for i, source in enumerate(self.sources) for block in source.blocks(i)]
        self.levels = [
            zarr.open_array(store.path / "images" / "he" / "s0", mode="r") for store in self.stores
        ]
        # Usual loaders do not pad: they are spared the cells at the borders.
        inside = [self._inside(i) for i in range(len(self.stores))]
        cells = np.concatenate([np.stack([np.full(len(r), i), r], 1) for i, r in enumerate(inside)])
        self.cells = np.random.default_rng(0).permutation(cells)[:sample]

    def _inside(self, slide: int) -> np.ndarray:
        store, source = self.stores[slide], self.sources[slide]
        height, width = store.levels[0].height, store.levels[0].width
        left, top = source._left, source._top
        fits = (left >= 0) & (top >= 0) & (left + SIZE <= width) & (top + SIZE <= height)
        return np.flatnonzero(store.passed & fits)

    def window(self, slide: int, row: int) -> tuple[slice, slice, slice]:
        """Where a cell's patch lies in level 0."""
        left, top = int(self.sources[slide]._left[row]), int(self.sources[slide]._top[row])
        return np.s_[:, top : top + SIZE, left : left + SIZE]

    # --- ways -----------------------------------------------------------------------------------------------

    def usual(self) -> int:
        """Per cell: zarr, PIL, ToTensor, Normalize, one row of counts."""
        transform = Compose([ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])
        for start in range(0, len(self.cells), BATCH):
            images, tokens = [], []
            for slide, row in self.cells[start : start + BATCH].tolist():
                patch = self.levels[slide][self.window(slide, row)]
                images.append(transform(Image.fromarray(patch.transpose(1, 2, 0))))
                tokens.append(self.usual_tokens(slide, row))
            torch.stack(images), torch.stack(tokens)
        return len(self.cells)

    def usual_tokens(self, slide: int, row: int) -> torch.Tensor:
        """One cell's rank tokens as they are usually made: a dense row, divided, sorted, padded."""
        source = self.sources[slide]
        counts = self.stores[slide].counts[row].toarray()[0].astype(np.float64)
        index = source.gene_index
        values = counts / counts.sum() * 10_000 / self.means[index]
        order = np.argsort(-values, kind="stable")
        order = order[values[order] > 0][:MAX_GENES]
        tokens = np.full(3 + MAX_GENES, 1, np.int64)
        tokens[:3] = source._context
        tokens[3 : 3 + len(order)] = index[order] + 30
        return torch.from_numpy(tokens)

    def cut_files(self, folder: Path) -> int:
        """Writes the PNG files of `precut`; bytes on disk."""
        for number, (slide, row) in enumerate(self.cells.tolist()):
            patch = self.levels[slide][self.window(slide, row)]
            Image.fromarray(patch.transpose(1, 2, 0)).save(folder / f"{number}.png")
        return sum(file.stat().st_size for file in folder.iterdir())

    def precut(self, folder: Path) -> int:
        """Per cell: one PNG through PIL."""
        for start in range(0, len(self.cells), BATCH):
            numbers = range(start, min(start + BATCH, len(self.cells)))
            torch.from_numpy(np.stack([np.asarray(Image.open(folder / f"{k}.png")) for k in numbers]))
        return len(self.cells)

    def in_memory(self, arrays: list[np.ndarray]) -> int:
        """Slices of whole slides in memory, in random order."""
        for start in range(0, len(self.cells), BATCH):
            part = self.cells[start : start + BATCH].tolist()
            out = torch.empty(len(part), 3, SIZE, SIZE, dtype=torch.uint8)
            view = out.numpy()
            for place, (slide, row) in enumerate(part):
                view[place] = arrays[slide][self.window(slide, row)]
        return len(self.cells)

    def loader(self, supply: RegionSupply) -> TrainLoader:
        """The training loader over all cells."""
        return TrainLoader(supply, EpochPlan(self.blocks, batch_size=BATCH, open_blocks=OPEN))

    def past(self) -> int:
        """One epoch of the training loader."""
        loader = self.loader(RegionSupply(self.sources, open_blocks=OPEN))
        return sum(len(batch.images) for batch in loader)

    # --- what is read ---------------------------------------------------------------------------------------

    def chunk_bytes(self, slide: int, top: int, left: int, height: int, width: int) -> int:
        """Bytes of the chunk files that a window of level 0 touches."""
        array = self.levels[slide]
        _, chunk_y, chunk_x = array.chunks
        rows = range(max(0, top) // chunk_y, -(-min(array.shape[1], top + height) // chunk_y))
        columns = range(max(0, left) // chunk_x, -(-min(array.shape[2], left + width) // chunk_x))
        folder = self.stores[slide].path / "images" / "he" / "s0" / "c" / "0"
        return sum((folder / str(y) / str(x)).stat().st_size for y in rows for x in columns)

    def usual_bytes(self) -> float:
        """Compressed bytes read per patch, cell by cell."""
        windows = [(slide, *self.window(slide, row)[1:]) for slide, row in self.cells.tolist()]
        return statistics.mean(self.chunk_bytes(s, y.start, x.start, SIZE, SIZE) for s, y, x in windows)

    def past_bytes(self) -> float:
        """Compressed bytes read per patch, block by block with its margin."""
        total = 0
        for block in self.blocks:
            source = self.sources[block.slide]
            left, top = source._left[block.rows], source._top[block.rows]
            height, width = np.ptp(top) + SIZE, np.ptp(left) + SIZE
            total += self.chunk_bytes(block.slide, int(top.min()), int(left.min()), int(height), int(width))
        return total / sum(len(block.rows) for block in self.blocks)

    def disk_bytes(self) -> int:
        """Bytes of level 0 on disk."""
        folders = [store.path / "images" / "he" / "s0" for store in self.stores]
        return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def run(profile: str, data: Path | None = None) -> Report:
    """Reads the same cells every way.

    Args:
        profile: `ci` reads fewer cells by the slow ways.
        data: folder of slide stores instead of the embedded default.
    """
    if data is None:
        from past_core.synthetic.default import default_slides

        paths = default_slides()
    else:
        paths = sorted(data.glob("*.zarr"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _report(profile, Slides(list(paths), SAMPLE[profile]))
    finally:
        torch.set_num_threads(threads)


def _report(profile: str, slides: Slides) -> Report:
    arrays = [np.asarray(level[:]) for level in slides.levels]
    exact = _check_bits(slides, arrays)
    total = sum(len(block.rows) for block in slides.blocks)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = slides.cut_files(folder) / len(slides.cells)
        ways: dict[str, Callable[[], int]] = {
            "usual": slides.usual,
            "pre-cut": lambda: slides.precut(folder),
            "in memory": lambda: slides.in_memory(arrays),
            "PAST": slides.past,
        }
        slides.past()  # the file cache is warm for everyone
        timed = {way: [Timer(work) for _ in range(REPEATS[profile])] for way, work in ways.items()}
    read = {"usual": slides.usual_bytes(), "pre-cut": files, "in memory": 0.0, "PAST": slides.past_bytes()}
    disk = {
        "usual": slides.disk_bytes(),
        "pre-cut": int(files * total),
        "in memory": sum(array.nbytes for array in arrays),
        "PAST": slides.disk_bytes(),
    }
    rate = {way: statistics.median(t.per_core for t in timers) for way, timers in timed.items()}
    wall = {way: statistics.median(t.cells / t.wall for t in timers) for way, timers in timed.items()}
    ratio = rate["PAST"] / rate["usual"]
    tokens = _tokens(slides, REPEATS[profile])
    memory = _memory(slides)
    factor = 1.0 if profile == "full" else 0.5
    passed = (
        exact
        and ratio >= GOALS["supply"] * factor
        and tokens["ratio"] >= GOALS["tokens"] * factor
        and tokens["share"] <= TOKEN_SHARE / factor
        and memory["peak"] <= memory["bound"]
    )
    rows = [
        [
            way,
            f"{rate[way]:,.0f}",
            f"{wall[way]:,.0f}",
            f"x {rate[way] / rate['usual']:.1f}",
            f"{read[way] / 1e6:.3f}",
            f"{disk[way] / 1e6:,.0f}",
        ]
        for way in ways
    ]
    return Report(
        name="supply",
        profile=profile,
        columns=["way", "patches/s per core", "wall", "ratio", "MB read/patch", "MB on disk"],
        rows=rows,
        goal=(
            f"at least {GOALS['supply']:g} x the usual way per core, tokens {GOALS['tokens']:g} x and under "
            f"{TOKEN_SHARE:.0%} of the time, patches bit-equal, memory within open blocks"
            + ("" if profile == "full" else " (below half fails)")
        ),
        figure=(
            f"{ratio:.1f} x the usual way, tokens {tokens['ratio']:.1f} x and {tokens['share']:.1%} of the "
            f"time, blocks in memory {memory['peak'] / 1e6:.0f} of at most {memory['bound'] / 1e6:.0f} MB"
        ),
        passed=bool(passed),
        details={
            "patches_per_second_per_core": rate,
            "patches_per_second_wall": wall,
            "bytes_read_per_patch": read,
            "bytes_on_disk": disk,
            "tokens": tokens,
            "memory": memory,
            "bit_equal": exact,
            "cells": total,
            "sample": len(slides.cells),
            "batch_size": BATCH,
            "open_blocks": OPEN,
        },
    )


def _check_bits(slides: Slides, arrays: list[np.ndarray]) -> bool:
    """Every patch of an epoch equals the slide's pixels, white outside, whatever the border."""
    padded = [np.pad(array, ((0, 0), (SIZE, SIZE), (SIZE, SIZE)), constant_values=255) for array in arrays]
    for batch in slides.loader(RegionSupply(slides.sources, open_blocks=OPEN)):
        for image, slide, row in zip(
            batch.images.numpy(), batch.slide.tolist(), batch.cell.tolist(), strict=True
        ):
            top, left = slides.sources[slide]._top[row] + SIZE, slides.sources[slide]._left[row] + SIZE
            if not np.array_equal(image, padded[slide][:, top : top + SIZE, left : left + SIZE]):
                return False
    return True


def _tokens(slides: Slides, repeats: int) -> dict[str, float]:
    """Tokens per processor second both ways, and the share of an epoch of the loader that they take."""

    def usual() -> int:
        for slide, row in slides.cells.tolist():
            slides.usual_tokens(slide, row)
        return len(slides.cells)

    def ours() -> int:
        for block in slides.blocks:
            slides.sources[block.slide].tokens(block.rows)
        return sum(len(block.rows) for block in slides.blocks)

    rates = {
        name: statistics.median(Timer(work).per_core for _ in range(repeats))
        for name, work in (("usual", usual), ("past", ours))
    }
    spent = {"tokenise": 0.0, "gather": 0.0}
    lock = threading.Lock()

    def clocked(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.thread_time()
            result = function(*arguments)
            with lock:
                spent[part] += time.thread_time() - start
            return result

        return call

    collector = supply_module._Tokens
    originals = (SlideSource.tokens, collector.add, collector.gather)
    SlideSource.tokens = clocked(originals[0], "tokenise")
    collector.add, collector.gather = clocked(originals[1], "gather"), clocked(originals[2], "gather")
    try:
        whole = Timer(slides.past)
    finally:
        SlideSource.tokens, collector.add, collector.gather = originals
    return {
        "usual_per_second": rates["usual"],
        "past_per_second": rates["past"],
        "ratio": rates["past"] / rates["usual"],
        "share": spent["tokenise"] / whole.cpu,
        "share_of_gathering_into_batches": spent["gather"] / whole.cpu,
    }


def _memory(slides: Slides) -> dict[str, int]:
    """Most bytes of blocks in memory over an epoch, and the bound that the settings give."""
    supply, peak = RegionSupply(slides.sources, open_blocks=OPEN), 0
    for _ in slides.loader(supply):
        peak = max(peak, supply.nbytes)
    largest = max(slides.sources[block.slide].read_block(block.block).nbytes for block in slides.blocks)
    return {"peak": peak, "bound": largest * (OPEN + READ_AHEAD + 2 * DEPTH)}
