"""Windows through the encoder and the generator, batch by batch, in the order in which they are blended."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from past_core.slides import Slide, View
from past_vihc.wsi.conditioning import CellConditioning, TileConditioning
from past_vihc.wsi.grid import Grid
from past_vihc.wsi.settings import StainSettings
from past_vihc.wsi.windows import ahead, read_windows

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_vihc.files import StainModel

Batch = tuple[int, np.ndarray]
"""Row and columns of windows that are stained together."""


@dataclass(frozen=True)
class Inputs:
    """What windows are made from.

    Attributes:
        slide: an open slide of known resolution.
        view: the slide at the generator's resolution.
        grid: windows over the view.
        active: `(rows, columns)` bool: the windows that are stained.
        model: the generator.
        encoder: what it is conditioned on; None for one without conditioning.
        step: pixels from node to node where it is conditioned on a grid of vectors, else 0.
        settings: how.
    """

    slide: Slide
    view: View
    grid: Grid
    active: np.ndarray
    model: "StainModel"
    encoder: "FrozenEncoder | None"
    step: int
    settings: StainSettings


class Predictions:
    """Stained windows, taken row by row; reading and, on accelerators, computing run ahead.

    Args:
        inputs: what they are made from.
        plan: the batches, in the order in which they will be taken.
        report: called with the number of windows after every batch.
    """

    def __init__(self, inputs: Inputs, plan: Sequence[Batch], report: Callable[[int], None]) -> None:
        self._stream = _predict(inputs, plan, report)

    def take(self, row: int) -> dict[int, np.ndarray]:
        """The next batch, which must be of this row: column to `(3, tile, tile)` uint8."""
        found, columns, windows = next(self._stream)
        if found != row:
            raise RuntimeError(f"a batch of row {found} came where row {row} was due")
        return dict(zip(columns.tolist(), windows, strict=True))

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._stream.close()


def _predict(
    inputs: Inputs, plan: Sequence[Batch], report: Callable[[int], None]
) -> Generator[tuple[int, np.ndarray, np.ndarray], None, None]:
    import torch

    condition, current, vectors, at = _conditioning(inputs), None, None, 0
    waiting: tuple[int, np.ndarray, torch.Tensor] | None = None
    for (row, columns), windows in ahead(lambda b: read_windows(inputs.view, inputs.grid, b[0], b[1]), plan):
        if condition is not None and row != current:
            current, vectors, at = row, condition.row(row), 0
        part = None if vectors is None else torch.from_numpy(vectors[at : at + len(columns)])
        at += len(columns)
        made = inputs.model(torch.from_numpy(windows), part, stain=inputs.settings.stain)
        # An accelerator works on this batch while the one before is copied and blended.
        if waiting is not None:
            report(len(waiting[1]))
            yield waiting[0], waiting[1], waiting[2].cpu().numpy()
        waiting = row, columns, made
    if waiting is not None:
        report(len(waiting[1]))
        yield waiting[0], waiting[1], waiting[2].cpu().numpy()


def _conditioning(inputs: Inputs) -> TileConditioning | None:
    if inputs.encoder is None:
        return None
    common = (inputs.slide, inputs.view, inputs.grid, inputs.active, inputs.encoder)
    if inputs.step:
        return CellConditioning(*common, batch_size=inputs.settings.batch_size, step=inputs.step)
    return TileConditioning(*common, batch_size=inputs.settings.batch_size)
