"""Embeddings of a slide's usable cells, made once and kept in the user's cache."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from past_core.atomic import replacing
from past_core.embed.output import EmbedError
from past_core.embed.partial import PartialBusyError, sweep
from past_core.foreign.arrays import open_npy
from past_core.foreign.errors import ForeignError
from past_core.slides.identity import source_key
from past_core.slides.stored import StoredSlide
from past_core.synthetic.default import cache_folder

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_core.frozen_cell import FrozenCellEncoder
    from past_genex.data.slides import ExpressionSlide

logger = logging.getLogger(__name__)

CELLS_AT_A_TIME = 4
"""Transcriptomes embedded at a time, in batches of patches: they are the smaller."""

POLL_SECONDS = 0.5
"""Between looks at what another process makes."""

Progress = Callable[[int, int], None]
"""Called with the number of cells done since the last call, and their number in all."""


def slide_features(
    slide: "ExpressionSlide",
    encoder: "FrozenEncoder",
    *,
    cache: Path | str | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> np.ndarray:
    """What an image encoder sees around each usable cell.

    Kept by the encoder's fingerprint and precision, the slide's manifest and its usable cells; a killed run
    goes on where it stood, a damaged file is made again.

    Args:
        slide: N usable cells.
        encoder: the encoder, d wide.
        cache: folder of the cache; by default `PAST_CACHE`, else the user's cache folder.
        batch_size: patches at a time.
        progress: called after every batch.

    Returns:
        `(N, d)` float32, memory-mapped, read only, finite.

    Raises:
        EmbedError: a vector that is not finite, with the encoder and the cell.
        PartialError: the disk is full.
    """
    from past_core.embed.vectors import embed_patches

    def make(path: Path, report: Callable[[int], None]) -> np.ndarray:
        return embed_patches(
            StoredSlide(slide.store),
            slide.centroids,
            slide.cell_ids,
            encoder,
            batch_size,
            report,
            path,
        )

    key = {"side": "image", "encoder": encoder.fingerprint, "precision": encoder.precision}
    return _kept(slide, key, encoder.dim, cache, progress, make)


def joint_features(
    slide: "ExpressionSlide",
    cell_encoder: "FrozenCellEncoder",
    *,
    cache: Path | str | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> np.ndarray:
    """The embedding of each usable cell's transcriptome, such as that in the joint space; kept likewise.

    Args:
        slide: N usable cells.
        cell_encoder: the encoder, d wide.
        cache: see `slide_features`.
        batch_size: as for patches; four times as many cells are embedded at a time.
        progress: called after every batch.

    Returns:
        `(N, d)` float32, memory-mapped, read only; a row of NaN for a cell without a count of a gene that the
        encoder knows.

    Raises:
        VocabularyError: the encoder knows none of the slide's genes.
        EmbedError: a vector that is not finite in part, or all of them.
        PartialError: the disk is full.
    """
    from past_core.embed.vectors import embed_counts

    def make(path: Path, report: Callable[[int], None]) -> np.ndarray:
        size = batch_size * CELLS_AT_A_TIME
        made = embed_counts(slide.store, cell_encoder, slide.rows, size, report, path)
        # A cell without a known count is NaN throughout; anything else that is not finite is a fault.
        bad = np.flatnonzero(~np.isfinite(made).all(axis=1) & ~np.isnan(made).all(axis=1))
        if not len(bad) and np.isnan(made).all():
            bad = np.arange(len(made))
        if len(bad):
            sweep(path)  # what is kept would be wrong the next time too
            raise EmbedError(
                f"{slide.store.path}: {cell_encoder.name} gives NaN or infinity for {len(bad)} of "
                f"{len(made)} cells, the first {slide.cell_ids[bad[0]]}; check its weights"
            )
        return made

    return _kept(
        slide, {"side": "cell", "encoder": cell_encoder.fingerprint}, cell_encoder.dim, cache, progress, make
    )


def _kept(
    slide: "ExpressionSlide",
    key: dict[str, Any],
    dim: int,
    cache: Path | str | None,
    progress: Progress | None,
    make: Callable[[Path, Callable[[int], None]], np.ndarray],
) -> np.ndarray:
    """What is in the cache under a key, made where it is not; what another process makes is waited for."""
    key = {
        **key,
        "source": source_key(slide.store.path),
        "rows": hashlib.sha256(slide.rows.astype("<i8").tobytes()).hexdigest(),
        "centroids": hashlib.sha256(slide.centroids.astype("<f8").tobytes()).hexdigest(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = cache_folder(cache) / "genex" / "features" / f"{digest[:32]}.npy"
    shape = (slide.n_cells, dim)
    report = (lambda done: progress(done, slide.n_cells)) if progress else (lambda done: None)
    waited = False
    while True:
        found = _read(path, shape)
        if found is not None:
            if progress is not None:
                progress(slide.n_cells, slide.n_cells)
            return found
        try:
            made = make(path, report)
            break
        except PartialBusyError:
            # Another rank of this training, or another run; were it killed, this one would go on instead.
            if not waited:
                logger.info("%s: another process makes these features; waiting for them", path)
            waited = True
            time.sleep(POLL_SECONDS)
    with replacing(path) as temporary:
        np.save(temporary, made)
    sweep(path)
    return np.load(path, mmap_mode="r")


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """A kept array; None where there is none, or none that can be used."""
    if not path.is_file():
        return None
    try:
        found = open_npy(path)
    except (ForeignError, OSError) as error:
        logger.warning("%s is damaged (%s): made again", path, error)
        return None
    if found.shape != shape or found.dtype != np.float32:
        logger.warning("%s holds %s of %s: made again", path, found.dtype, found.shape)
        return None
    return found
