"""Ingest in processes of their own: time, memory, and whether two stores hold the same slide."""

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
STRIP = 2048


@dataclass(frozen=True)
class Cost:
    """What a process took: wall and processor seconds, and its peak resident memory in GiB."""

    seconds: float
    cpu_seconds: float
    peak_gib: float


def past_ingest(folder: Path, *arguments: object) -> Cost:
    """Runs `past ingest` with these arguments."""
    peak = folder / "peak-past"
    return _run(folder, peak, ["benchmarks.memory", str(peak), "ingest", *map(str, arguments)])


def spatialdata_io(folder: Path, bundle: Path, store: Path) -> Cost:
    """Runs spatialdata-io's reader and SpatialData's writer; see `benchmarks.ingest_spatialdata`."""
    peak = folder / "peak-spatialdata"
    return _run(folder, peak, ["benchmarks.ingest_spatialdata", str(bundle), str(store), str(peak)])


def _run(folder: Path, peak: Path, module: list[str]) -> Cost:
    """Runs a module, both ways with compiled imports from one place, as an installed program has them.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    environment = dict(os.environ) | {"PYTHONPYCACHEPREFIX": str(folder / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    peak.unlink(missing_ok=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(module)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Cost(seconds, cpu, float(peak.read_text()))


def same_content(ours: Path, theirs: Path, bundle: Path) -> dict[str, Any]:
    """Compares a slide store with what spatialdata-io made of the same bundle.

    Returns:
        cells and counts that are there in both alike, whether every level-0 pixel is equal, and how far apart
        in H&E pixels the corners of outlines are at most (both come from float32 micrometres).
    """
    import geopandas
    import zarr
    from anndata.io import read_elem

    from benchmarks.ingest_bundle import HE_NAME
    from past_core.ingest.store import SlideStore
    from past_core.ingest.xenium_alignment import alignment_beside, read_alignment
    from past_core.synthetic.bundle_frame import PIXEL_SIZE

    store = SlideStore(ours)
    other = zarr.open_group(theirs, mode="r", use_consolidated=False)
    table = read_elem(other["tables/table"])[store.cell_ids]
    genes = table.var["gene_ids"].astype(str).tolist()
    counts = table.X[:, [genes.index(gene) for gene in store.genes.index]]
    image = other["images/he_image/s0"]
    level = store.levels[0]
    pixels = image.shape == (3, level.height, level.width) and all(
        np.array_equal(
            image[:, top : top + STRIP],
            store.read(0, top, 0, min(STRIP, level.height - top), level.width),
        )
        for top in range(0, level.height, STRIP)
    )
    frame = read_alignment(alignment_beside(bundle / HE_NAME))
    apart, polygons = 0.0, 0
    for kind in ("cell_boundaries", "nucleus_boundaries"):
        frames = [
            geopandas.read_parquet(path / "shapes" / kind / "shapes.parquet") for path in (ours, theirs)
        ]
        corners = []
        for number, shapes in enumerate(frames):
            owner = shapes.get("cell_id", shapes.index)
            exterior = [np.asarray(shape.exterior.coords) for shape in shapes.geometry]
            if number:
                exterior = [frame.to_image(points / PIXEL_SIZE) for points in exterior]
            # Nuclei of one cell by their place.
            keys = zip(owner.astype(str), (tuple(np.round(p.mean(axis=0), 1)) for p in exterior), strict=True)
            corners.append([points for _, points in sorted(zip(keys, exterior, strict=True), key=_key)])
        polygons += len(corners[0])
        sizes = [[len(points) for points in found] for found in corners]
        if sizes[0] != sizes[1]:
            apart = float("inf")
            continue
        apart = max(apart, float(np.abs(np.concatenate(corners[0]) - np.concatenate(corners[1])).max()))
    return {
        "cells": store.n_cells,
        "same_cells": table.n_obs == store.n_cells,
        "same_counts": (counts != store.counts).nnz == 0,
        "same_pixels": bool(pixels),
        "polygons": polygons,
        "outlines_apart_px": apart,
    }


def _key(item: Any) -> Any:
    return item[0]


def large_image(folder: Path, side: int, n_cells: int) -> tuple[Path, Path]:
    """A slide of one repeated tissue, and an AnnData of cells spread over its middle for `--hest`."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from past_core.synthetic.large import large_slide
    from past_core.synthetic.panel import gene_model

    genes = gene_model("breast").genes
    rng = np.random.default_rng(side)
    table = AnnData(
        X=csr_matrix(rng.poisson(0.5, (n_cells, len(genes))).astype(np.int32)),
        obs=pd.DataFrame(index=[f"cell-{number}" for number in range(n_cells)]),
        var=pd.DataFrame({"symbol": genes["symbol"].to_numpy()}, index=genes["id"].to_numpy()),
        obsm={"spatial": rng.uniform(0.25 * side, 0.75 * side, (n_cells, 2))},
    )
    cells = folder / f"cells-{side}.h5ad"
    table.write_h5ad(cells)
    return cells, large_slide(folder / f"he-{side}.tif", side)
