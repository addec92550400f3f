"""A whole slide through a generator: windows, conditioning, blending, strips, and the file at the end."""

import hashlib
import itertools
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from past_core.remote import Location
from past_core.slides import Slide, open_slide, tissue_mask
from past_core.slides.identity import source_key
from past_vihc.wsi.blend import SEGMENT, Blender, block_edges
from past_vihc.wsi.grid import make_grid, windows_with_tissue
from past_vihc.wsi.output import Outputs, write_outputs
from past_vihc.wsi.prediction import Inputs, Predictions
from past_vihc.wsi.settings import (
    StainError,
    StainSettings,
    model_fingerprint,
)
from past_vihc.wsi.windows import batches
from past_vihc.wsi.work import StripWriter, WorkFolder

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_vihc.files import StainModel

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised when the pixels of strips change for the same settings."""
STRIP = 1024
"""Rows of a strip, about: the most work that a kill can cost."""

Progress = Callable[[str, int, int], None]
"""Called with what is done ("windows", "tiles written"), how many since the last call, and in all."""


@dataclass(frozen=True)
class Staining:
    """What became of a call.

    Attributes:
        complete: whether the output is written.
        strips: how many strips the slide has.
        done: how many of them are finished, by whichever process.
        resumed: how many were finished before this call.
    """

    complete: bool
    strips: int
    done: int
    resumed: int


def stain_slide(
    path: str | Location,
    outputs: Outputs,
    model: "StainModel",
    encoder: "FrozenEncoder | None" = None,
    *,
    name: str = "model",
    settings: StainSettings | None = None,
    mpp: float | None = None,
    band: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> Staining:
    """Stains a slide and writes it.

    Memory does not grow with the slide's height, and with its width only by a few rows of pixels. Finished
    strips wait in a hidden folder beside the output; after a kill the same call goes on from them and writes
    the same bytes (on the same kind of device, with the same number of threads).

    Args:
        path: a slide that `open_slide` opens.
        outputs: see `plan_outputs`.
        model: the generator.
        encoder: what it is conditioned on, on its device; None for one without conditioning.
        name: of the model, for the record.
        settings: how.
        mpp: µm per pixel of a slide that does not state it.
        band: (K, N): this process makes the K-th of N shares of the strips. Whoever finishes the last strip
            writes the output.
        progress: called as work is done.

    Raises:
        StainError: no tissue, or a band out of range.
        UnknownStainError, MarkerError: a stain that the model does not make.
        GeneratorMismatchError: another encoder than the model was trained with, or none.
        SlideError, WorkError, StainWriteError, GridError, ConditioningError: see there.
    """
    settings = settings or StainSettings()
    settings = replace(settings, stain=model.stains[model.stain_index(settings.stain)])
    if not 1 <= band[0] <= band[1]:
        raise StainError(f"band {band[0]}/{band[1]}; expected K/N with K from 1 to N")
    if not 0 <= settings.background <= 255:
        raise StainError(f"background {settings.background}; expected a grey value from 0 to 255")
    model.check(encoder)
    with open_slide(path, mpp=mpp) as slide:
        job = _Job(slide, model, encoder if model.encoder is not None else None, name, settings)
        return job.run(outputs, band, progress or (lambda what, done, total: None))


def expected_record(
    path: str | Location,
    model: "StainModel",
    encoder: "FrozenEncoder | None" = None,
    *,
    name: str = "model",
    settings: StainSettings | None = None,
    mpp: float | None = None,
) -> dict[str, Any]:
    """What `stain_slide` would write into its output about itself, without staining."""
    settings = settings or StainSettings()
    settings = replace(settings, stain=model.stains[model.stain_index(settings.stain)])
    with open_slide(path, mpp=mpp) as slide:
        return _Job(slide, model, encoder if model.encoder is not None else None, name, settings).record


class _Job:
    """One slide with one model."""

    def __init__(
        self,
        slide: Slide,
        model: "StainModel",
        encoder: "FrozenEncoder | None",
        name: str,
        settings: StainSettings,
    ) -> None:
        self.slide, self.model, self.encoder, self.settings = slide, model, encoder, settings
        slide.require_mpp()
        self.view = slide.at(model.mpp)
        cells = encoder is not None and model.granularity == "cells"
        self.step = round(model.pitch_um / model.mpp) if cells and model.pitch_um is not None else 0
        self.grid = make_grid(
            self.view.height,
            self.view.width,
            tile=model.tile,
            overlap=settings.overlap,
            receptive_field=model.receptive_field,
            step=max(self.step, 1),
        )
        self.record = self._record(name)
        rows = self.grid.rows
        self.strip_rows = [*range(0, rows.count, max(1, round(STRIP / rows.stride))), rows.count]
        self.edges = [rows.first(row) for row in self.strip_rows]

    @cached_property
    def active(self) -> np.ndarray:
        """`(rows, columns)` bool: the windows that are stained."""
        shape = (self.grid.rows.count, self.grid.columns.count)
        if not self.settings.tissue_only:
            return np.ones(shape, bool)
        mask, scale = tissue_mask(self.slide)
        active = windows_with_tissue(self.grid, mask, scale / self.view.downsample)
        if not active.any():
            raise StainError(
                f"{self.slide.path}: no tissue found (nothing on it is coloured enough); if there is some, "
                "stain the whole slide with --no-tissue-mask"
            )
        return active

    def _record(self, name: str) -> dict[str, Any]:
        model, settings, axis = self.model, self.settings, self.grid.rows
        record: dict[str, Any] = {
            "kind": "virtual stain",
            "use": "research use only",
            "software": f"past-vihc {version('past-vihc')}",
            "stain": settings.stain,
            "model": name,
            "model_fingerprint": model_fingerprint(model),
            "slide": self.slide.name,
            "source": source_key(self.slide.path),
            "slide_mpp": self.slide.mpp,
            "mpp": self.view.mpp,
            "tile": axis.tile,
            "overlap": axis.tile - axis.stride,
            "ramp": axis.ramp,
            "precision": model.precision,
            "tissue_only": settings.tissue_only,
            "background": settings.background,
        }
        if self.encoder is not None:
            record |= {"encoder": self.encoder.name, "encoder_fingerprint": self.encoder.fingerprint}
            record["granularity"] = model.granularity
        return record | ({"demo": True} if model.demo else {})

    def _key(self) -> dict[str, Any]:
        """All that determines the pixels of strips, and the record."""
        return {
            **self.record,
            "format": [FORMAT, SEGMENT, STRIP],
            "batch_size": self.settings.batch_size,
            "device": self.model.device.type,
            "size": [self.view.height, self.view.width],
            "windows": hashlib.sha256(np.packbits(self.active).tobytes()).hexdigest(),
        }

    def run(self, outputs: Outputs, band: tuple[int, int], progress: Progress) -> Staining:
        """Makes the band's missing strips, and the output where they were the last ones."""
        n = len(self.edges) - 1
        share = range((band[0] - 1) * n // band[1], band[0] * n // band[1])
        rows, columns = block_edges(self.grid)
        work = WorkFolder(
            outputs.main,
            self._key(),
            edges=self.edges,
            rows=rows,
            columns=columns,
            background=self.settings.background,
        )
        with work.open(shared=band[1] > 1):
            before = work.done()
            if before.any():
                logger.info("%s: goes on, %d of %d strips are there", outputs.main, before.sum(), n)
            self._stain(work, [strip for strip in share if not before[strip]], progress)
            done = work.done()
            complete = bool(done.all()) and self._write(work, outputs, progress)
        return Staining(complete, n, int(done.sum()), int(before.sum()))

    def _write(self, work: WorkFolder, outputs: Outputs, progress: Progress) -> bool:
        with work.finishing() as mine:
            if mine:
                write_outputs(
                    outputs,
                    work.image(),
                    self.record,
                    mpp=float(self.view.require_mpp()),
                    work=work.path,
                    progress=lambda new, total: progress("tiles written", new, total),
                )
        return mine

    def _stain(self, work: WorkFolder, missing: list[int], progress: Progress) -> None:
        """Makes strips, from top to bottom."""
        rows = self._rows(missing)
        size = self.settings.batch_size
        plan = [(row, columns) for row, _ in rows for columns in batches(self.active, row, size)]
        total = sum(len(columns) for _, columns in plan)
        inputs = Inputs(
            self.slide, self.view, self.grid, self.active, self.model, self.encoder, self.step, self.settings
        )
        predictions = Predictions(inputs, plan, lambda new: progress("windows", new, total))
        writer: StripWriter | None = None

        def sink(y: int, x: int, block: np.ndarray) -> None:
            assert writer is not None  # rows are taken inside a strip
            writer.write(y, x, block)

        blender = Blender(self.grid, self.active, sink, background=self.settings.background)
        with closing(predictions):
            for strip, group in itertools.groupby(rows, key=lambda item: item[1]):
                with work.writing(strip) as writer:
                    for row, _ in group:
                        emit = row >= self.strip_rows[strip]
                        if not emit:
                            blender.restart()
                        self._row(blender, predictions, row, emit=emit)

    def _rows(self, missing: list[int]) -> list[tuple[int, int]]:
        """Window rows to stain, each with its strip; where the strip above is not made, one row of it too."""
        found = []
        for strip in missing:
            first, stop = self.strip_rows[strip], self.strip_rows[strip + 1]
            alone = first > 0 and strip - 1 not in missing
            found += [(row, strip) for row in range(first - alone, stop)]
        return found

    def _row(self, blender: Blender, predictions: Predictions, row: int, *, emit: bool) -> None:
        tiles: dict[int, np.ndarray] = {}
        for segment in blender.segments():
            needed = np.flatnonzero(self.active[row, segment[0] : segment[1]]) + segment[0]
            while len(needed) and int(needed[-1]) not in tiles:
                tiles.update(predictions.take(row))
            blender.segment(row, segment, tiles, emit=emit)
            tiles = {column: tile for column, tile in tiles.items() if column >= segment[1]}
