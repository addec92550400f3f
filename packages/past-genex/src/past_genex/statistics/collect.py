"""One streaming pass over a slide: the statistics of every region, interior and rim apart."""

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from past_core.atomic import replacing
from past_core.slides.identity import source_key
from past_genex.data.regions import Regions
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target
from past_genex.statistics.folder import (
    FIELDS,
    META,
    SlideStatistics,
    StatisticsError,
    open_statistics,
    shapes,
    size_bytes,
    write_statistics,
)
from past_genex.statistics.moments import CHUNK, Moments

__all__ = ["SlideStatistics", "StatisticsError", "collect", "open_statistics", "statistics_key"]

logger = logging.getLogger(__name__)

LARGE = 4 * 1024**3
"""Bytes from which the size is a warning and not a note."""


class NamedEncoder(Protocol):
    """What is asked of an encoder: a `FrozenEncoder` has it."""

    name: str
    fingerprint: str


def statistics_key(
    slide: ExpressionSlide, dim: int, regions: Regions, target: Target, encoder: NamedEncoder
) -> dict[str, Any]:
    """All that a slide's statistics depend on; two that differ in an entry are never taken for each other."""
    return {
        "encoder": encoder.fingerprint,
        "precision": getattr(encoder, "precision", "32"),
        "dim": int(dim),
        "target": target.name,
        "slide": f"{slide.name} of {slide.patient}",
        "genes": _digest("\n".join(slide.genes).encode()),
        "content": _digest(source_key(slide.store.path), slide.rows, slide.totals, slide.xy_um),
        "regions": _digest(regions.kind, regions.region, regions.rim),
    }


def collect(
    slide: ExpressionSlide,
    features: np.ndarray,
    regions: Regions,
    target: Target,
    folder: Path | str,
    *,
    encoder: NamedEncoder,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> SlideStatistics:
    """Statistics of a slide by part, from its folder, or made there.

    Every cell's embedding and expression are read once: region by region, in the order of the store, so that
    the statistics of one part and `chunk` cells are in memory, whatever the slide's size. The folder appears
    whole or not at all.

    Args:
        slide: the slide.
        features: `(N, d)` float32 embeddings of its usable cells, such as a memory map.
        regions: its partition.
        target: the scale of expression.
        folder: where the statistics are or shall be.
        encoder: what made the embeddings; its name and fingerprint are kept.
        chunk: cells in float64 at a time.
        progress: called with the number of cells done.

    Raises:
        StatisticsError: the folder holds other statistics (what differs is named); features or regions of
            another number of cells; an embedding that is not finite (encoder, slide and cell are named); not
            enough room on the disk.
    """
    folder = Path(folder)
    n, genes = slide.n_cells, len(slide.genes)
    if features.ndim != 2 or len(features) != n or not features.shape[1]:
        raise StatisticsError(
            f"{slide.name}: embeddings of shape {features.shape} for {n} usable cells; expected ({n}, d)"
        )
    if len(regions.region) != n:
        raise StatisticsError(
            f"{slide.name}: regions of {len(regions.region)} cells; the slide has {n} usable"
        )
    d = features.shape[1]
    key = statistics_key(slide, d, regions, target, encoder)
    if (folder / META).is_file():
        return open_statistics(folder).require(key)
    if folder.exists():
        raise StatisticsError(f"{folder} is there but holds no statistics; name another folder or remove it")
    filled = int(np.count_nonzero(regions.sizes()))
    # Parts without cells are holes in the files and take no room.
    size = size_bytes(regions.n_regions, d, genes) * (filled + 1) // (2 * regions.n_regions + 1)
    logger.log(
        logging.WARNING if size > LARGE else logging.INFO,
        "%s: statistics of %d parts, %d dimensions and %d genes take %.2f GiB in %s",
        slide.name,
        filled,
        d,
        genes,
        size / 2**30,
        folder,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise StatisticsError(
            f"{slide.name}: statistics of {filled} parts, {d} dimensions and {genes} genes take "
            f"{size / 2**30:.1f} GiB, {folder.parent} has {free / 2**30:.1f} GiB left; make larger "
            "regions or choose another folder"
        )
    meta = {
        "software": f"past-genex {version('past-genex')}",
        "key": key,
        "slide": slide.name,
        "patient": slide.patient,
        "cancer_type": slide.cancer_type,
        "encoder_name": encoder.name,
        "n_regions": regions.n_regions,
        "region_kind": regions.kind,
        "region_um": regions.size_um,
        "rim_um": regions.rim_um,
        "genes": [str(gene) for gene in slide.genes],
    }
    with replacing(folder) as temporary:
        temporary.mkdir()
        arrays: dict[str, np.memmap] = {
            name: np.lib.format.open_memmap(
                temporary / f"{name}.npy", mode="w+", dtype=np.float64, shape=shape
            )
            for name, shape in shapes(regions.n_regions, d, genes).items()
        }
        _fill(arrays, slide, features, regions, target, encoder.name, chunk, progress)
        for array in arrays.values():
            array.flush()
        write_statistics(temporary, meta, arrays)
    return open_statistics(folder)


def _fill(
    arrays: Mapping[str, np.ndarray],
    slide: ExpressionSlide,
    features: np.ndarray,
    regions: Regions,
    target: Target,
    encoder: str,
    chunk: int,
    progress: Callable[[int], None] | None,
) -> None:
    # A stable sort keeps the store's order within a part, and so the reading nearly sequential.
    order, done = np.argsort(regions.part, kind="stable"), 0
    ends = np.cumsum(regions.sizes().ravel())
    for part, rows in enumerate(np.split(order, ends[:-1])):
        moments = Moments.empty(features.shape[1], len(slide.genes))
        for start in range(0, len(rows), chunk):
            chosen = rows[start : start + chunk]
            x = np.asarray(features[chosen])
            finite = np.isfinite(x).all(axis=1)
            if not finite.all():
                row = int(chosen[np.flatnonzero(~finite)[0]])
                raise StatisticsError(
                    f"encoder {encoder} gave an embedding that is not finite for cell "
                    f"{slide.cell_ids[row]!r} (usable cell {row}) of slide {slide.name}, and for "
                    f"{np.count_nonzero(~finite) - 1} more of its {len(x)} neighbours in the pass; embed the "
                    "slide again, in precision 32 if it was made in half precision"
                )
            moments = moments.merge(Moments.of(x, slide.expression(target, rows=chosen)))
            done += len(chosen)
            if progress is not None:
                progress(done)
        if moments.n:
            for name in FIELDS:
                arrays[name][divmod(part, 2)] = getattr(moments, name)


def _digest(*parts: str | bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()
