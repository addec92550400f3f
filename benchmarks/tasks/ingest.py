"""What `past ingest` costs against spatialdata-io on one bundle, and its memory on slides of several sizes.

- One Xenium bundle with its H&E (OME-TIFF of JPEG tiles, pyramidal), read from the same files by both ways,
  each in a process of its own, in turn. The usual way: `spatialdata_io.xenium` with both kinds of outlines,
  the table and the H&E, at its own defaults, then `SpatialData.write`. PAST writes that and the neighbour
  graphs, quality flags, hashes of the sources and a deeper pyramid besides. Both stores are compared.
- The same number of cells on slides of growing size: what the image takes must not grow with it.
"""

import shutil
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.ingest_bundle import BLOCK, HE_NAME, large_bundle
from benchmarks.ingest_runs import Cost, large_image, past_ingest, same_content, spatialdata_io
from benchmarks.report import Report
from benchmarks.task import Metric, Task, at_least, at_most
from past_core.ingest.store import SlideStore

TASK = Task(
    title="Cost of ingest",
    group="ingest",
    data="a Xenium bundle and its H&E, made of one rendered block; large H&E with the same cells",
    split="spatialdata-io's reader and writer on the same files, each in a process of its own",
    system="what",
    systems=(),
    metrics=(Metric("wall", "lower"), Metric("processor", "lower"), Metric("peak", "lower")),
    tracked=(
        at_least("details", "ratios", "processor", share=0.6),
        at_least("details", "ratios", "memory", share=0.8),
        at_most("details", "many", "peak_gib", times=1.25),
    ),
)

BUNDLE = {"full": (20_000, 100_000), "ci": (3 * BLOCK, 10_000)}
"""Side of the H&E in pixels, and cells."""
REPEATS = {"full": 3, "ci": 1}
SIDES = {"full": (8192, 32_768, 60_000), "ci": (4096, 8192)}
CELLS = 2_000
"""Cells of every slide whose image grows."""
MANY = {"full": (46_000, 1_000_000), "ci": (3 * BLOCK, 20_000)}
"""Of the bundle of which nothing but its peak is asked."""
PEAK_GIB = 4.0
FLAT = 1.25
TOLERANCE_PX = 0.01


def run(profile: str, data: Path | None = None) -> Report:
    """Measures both.

    Args:
        profile: `ci` has a smaller bundle, once, and smaller slides.
        data: folder for the files that are made (20 GB in `full`); the system's temporary one by default.
    """
    side, n_cells = BUNDLE[profile]
    with tempfile.TemporaryDirectory(prefix="past-ingest-", dir=data) as name:
        folder = Path(name)
        _warm_up(folder)
        ways, content = _compare(folder, side, n_cells, REPEATS[profile])
        growing = {side: _grown(folder, side) for side in SIDES[profile]}
        many, counts = _many(folder, *MANY[profile])
    middle = {way: statistics.median(cost.seconds for cost in costs) for way, costs in ways.items()}
    cpu = {way: statistics.median(cost.cpu_seconds for cost in costs) for way, costs in ways.items()}
    peak = {way: max(cost.peak_gib for cost in costs) for way, costs in ways.items()}
    speed = middle["spatialdata-io"] / middle["PAST"]
    memory = peak["spatialdata-io"] / peak["PAST"]
    peaks = [cost.peak_gib for cost in growing.values()]
    flat = max(peaks) / min(peaks)
    same = (
        content["same_cells"]
        and content["same_counts"]
        and content["same_pixels"]
        and content["outlines_apart_px"] <= TOLERANCE_PX
    )
    loose = 1.0 if profile == "full" else 0.5
    passed = (
        same
        and speed > loose
        and memory > loose
        and max(*peaks, peak["PAST"], many.peak_gib) < PEAK_GIB
        and flat <= FLAT / loose
    )
    what = f"{content['cells']:,} cells on {side:,}²"
    rows = [_row(f"{what}, {way}", middle[way], cpu[way], peak[way]) for way in ways]
    rows += [
        _row(f"{CELLS:,} cells on {size:,}²", cost.seconds, cost.cpu_seconds, cost.peak_gib)
        for size, cost in growing.items()
    ]
    rows.append(
        _row(
            f"{MANY[profile][1]:,} cells of {counts:.0f} genes on {MANY[profile][0]:,}², PAST",
            many.seconds,
            many.cpu_seconds,
            many.peak_gib,
        )
    )
    return Report(
        name="ingest",
        profile=profile,
        columns=["what", "wall", "processor", "peak"],
        rows=rows,
        goal="the same content as spatialdata-io, faster and in less memory; under 4 GiB, within 1.25 x "
        "over slides of the same cells" + ("" if profile == "full" else " (below half fails)"),
        figure=f"x {speed:.1f} as fast, x {cpu['spatialdata-io'] / cpu['PAST']:.1f} by processor time, "
        f"memory 1/{memory:.1f}; peaks of growing slides within x {flat:.2f}, at most {max(peaks):.2f} GiB; "
        f"{MANY[profile][1]:,} cells in {many.peak_gib:.2f} GiB" + ("" if same else "; CONTENT DIFFERS"),
        passed=passed,
        details={
            "ways": {way: [asdict(cost) for cost in costs] for way, costs in ways.items()},
            "content": content,
            "ratios": {
                "wall": speed,
                "processor": cpu["spatialdata-io"] / cpu["PAST"],
                "memory": memory,
                "flat": flat,
            },
            "growing": {str(size): asdict(cost) for size, cost in growing.items()},
            "many": asdict(many) | {"genes_a_cell": counts},
        },
    )


def _row(what: str, wall: float, processor: float, peak: float) -> list[str]:
    return [what, f"{wall:.1f} s", f"{processor:.1f} s", f"{peak:.2f} GiB"]


def _warm_up(folder: Path) -> None:
    """Both ways once on a small bundle: imports are compiled, as those of installed programs are."""
    bundle = large_bundle(folder / "small", BLOCK, 300)
    store = folder / "small.zarr"
    past_ingest(folder, bundle, "--he", bundle / HE_NAME, "-o", store)
    spatialdata_io(folder, bundle, folder / "small-usual.zarr")


def _compare(
    folder: Path, side: int, n_cells: int, repeats: int
) -> tuple[dict[str, list[Cost]], dict[str, Any]]:
    bundle = large_bundle(folder / "bundle", side, n_cells)
    ours, theirs = folder / "ours.zarr", folder / "theirs.zarr"
    ways: dict[str, list[Cost]] = {"PAST": [], "spatialdata-io": []}
    for _ in range(repeats):
        for store in (ours, theirs):
            shutil.rmtree(store, ignore_errors=True)
        ways["PAST"].append(past_ingest(folder, bundle, "--he", bundle / HE_NAME, "-o", ours))
        ways["spatialdata-io"].append(spatialdata_io(folder, bundle, theirs))
    content = same_content(ours, theirs, bundle)
    for path in (bundle, ours, theirs):
        shutil.rmtree(path)
    return ways, content


def _grown(folder: Path, side: int) -> Cost:
    """Ingest of one large image; its files are removed again."""
    cells, he = large_image(folder, side, CELLS)
    store = folder / f"grown-{side}.zarr"
    cost = past_ingest(folder, "--hest", cells, "--he", he, "-o", store)
    shutil.rmtree(store)
    for path in (cells, he):
        path.unlink()
    return cost


def _many(folder: Path, side: int, n_cells: int) -> tuple[Cost, float]:
    """Ingest of many cells, and how many genes were counted in one on average."""
    bundle, store = large_bundle(folder / "many", side, n_cells), folder / "many.zarr"
    cost = past_ingest(folder, bundle, "--he", bundle / HE_NAME, "-o", store)
    written = SlideStore(store)
    stored = written.manifest["counts"]["stored"] / written.n_cells
    for path in (bundle, store):
        shutil.rmtree(path)
    return cost, stored
