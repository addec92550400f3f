"""The vectors of a slide's patches and of its cells' counts, batch by batch, going on where a run stopped."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from past_core.embed.output import EmbedError
from past_core.embed.partial import partial_vectors
from past_core.ingest.store import SlideStore
from past_core.slides import Slide, iter_patches
from past_core.slides.identity import source_key

if TYPE_CHECKING:
    from past_core.encoders import FrozenCellEncoder, FrozenEncoder

CELL_BATCHES = 16
"""Batches of cells that are embedded between two looks at what must be kept."""


def embed_patches(
    slide: Slide,
    centres: np.ndarray,
    names: Sequence[str] | np.ndarray,
    encoder: "FrozenEncoder",
    batch_size: int,
    report: Callable[[int], None],
    output: str | Path | None,
) -> np.ndarray:
    """Embeds the patch around each point of a slide.

    Args:
        slide: an open slide.
        centres: `(N, 2)` x, y in level-0 pixels.
        names: of the N points, for messages.
        encoder: the encoder.
        batch_size: patches at a time.
        report: called with the number done after every batch.
        output: beside which what is done is kept; None keeps nothing.

    Returns:
        `(N, dim)` float32.

    Raises:
        EmbedError: a vector that is not finite.
        PartialError: another run makes this output.
    """
    centres = np.ascontiguousarray(centres, np.float64)
    key = {
        "side": "image",
        "encoder": encoder.fingerprint,
        "precision": encoder.precision,
        "source": source_key(slide.path),
        "mpp": float(slide.require_mpp()),
        "centres": hashlib.sha256(centres.tobytes()).hexdigest(),
    }
    with partial_vectors(output, key, len(centres), encoder.dim) as vectors:
        rows = np.flatnonzero(~vectors.done)
        if len(rows) < len(centres):
            report(len(centres) - len(rows))
        # Batches come in reading order: the rest of an interrupted run has the batches it would have had.
        stream = iter_patches(
            slide, centres[rows], mpp=encoder.mpp, size=encoder.patch_size, batch_size=batch_size
        )
        for index, batch in encode_stream(encoder, stream):
            bad = np.flatnonzero(~np.isfinite(batch).all(axis=1))
            if len(bad):
                raise EmbedError(
                    f"{slide.path}: {encoder.name} gives NaN or infinity for {len(bad)} of a batch of "
                    f"{len(batch)} patches, the first {names[rows[index[bad[0]]]]}"
                )
            vectors.add(rows[index], batch)
            report(len(index))
    return vectors.values


def encode_stream(
    encoder: "FrozenEncoder", stream: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Encodes a stream of patches; an accelerator works on one batch while the next is read and copied.

    Args:
        encoder: the encoder.
        stream: indices `(B,)` and patches `(B, 3, L, L)` uint8.

    Yields:
        indices and vectors `(B, dim)` float32.
    """
    import torch

    if encoder.device.type == "cpu":
        for index, images in stream:
            yield index, encoder(images).numpy()
        return
    # Two pinned buffers: a batch's results have arrived before its buffer's next but one turn.
    buffers: list[torch.Tensor | None] = [None, None]
    waiting: tuple[np.ndarray, torch.Tensor] | None = None
    for number, (index, images) in enumerate(stream):
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        if encoder.device.type == "cuda":
            buffer = buffers[number % 2]
            if buffer is None or len(buffer) < len(pixels):
                buffer = buffers[number % 2] = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
            pixels = buffer[: len(pixels)].copy_(pixels)
        result = encoder(pixels)
        if waiting is not None:
            yield waiting[0], waiting[1].cpu().numpy()
        waiting = index, result
    if waiting is not None:
        yield waiting[0], waiting[1].cpu().numpy()


def embed_counts(
    store: SlideStore,
    cell: "FrozenCellEncoder",
    rows: np.ndarray,
    batch_size: int,
    report: Callable[[int], None],
    output: str | Path | None,
) -> np.ndarray:
    """Embeds the counts of a store's cells.

    Args:
        store: the slide store.
        cell: the encoder.
        rows: `(N,)` which cells.
        batch_size: cells at a time.
        report: called with the number done after every batch.
        output: beside which what is done is kept; None keeps nothing.

    Returns:
        `(N, dim)` float32, NaN for cells without a count that the encoder knows.
    """
    from past_core.frozen_cell import Neighborhood

    near = Neighborhood.from_distances(store.neighbors, store.distances, median_um=store.median_distance)
    key = {
        "side": "cell",
        "encoder": cell.fingerprint,
        "source": source_key(store.path),
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "neighbors": hashlib.sha256(near.index.tobytes() + near.distance.tobytes()).hexdigest(),
    }
    with partial_vectors(output, key, len(rows), cell.dim) as vectors:
        rest = np.flatnonzero(~vectors.done)
        if len(rest) < len(rows):
            report(len(rows) - len(rest))
        for start in range(0, len(rest), batch_size * CELL_BATCHES):
            part = rest[start : start + batch_size * CELL_BATCHES]
            made = cell(
                store.counts,
                list(store.genes.index),
                neighborhood=near,
                rows=rows[part],
                assay=store.assay,
                organism=store.organism,
                modality=store.modality,
                batch_size=batch_size,
                progress=report,
                source=str(store.path),
            )
            vectors.add(part, made.numpy())
    return vectors.values
