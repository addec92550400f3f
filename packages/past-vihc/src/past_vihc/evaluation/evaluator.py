"""Evaluates a virtual stain tile by tile, on any number of processes."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_vihc.evaluation.dab import MASK, TileDab, correlation, dice, tile_dab
from past_vihc.evaluation.scores import h_score_errors
from past_vihc.evaluation.similarity import psnr, ssim, ssim_paper
from past_vihc.evaluation.summary import case_table, means
from past_vihc.hscore.presets import Thresholds, thresholds_named

NUCLEI = ("case", "stain", "tile", "label", "real", "fake")


class EvaluationError(PastError, ValueError):
    """Images that cannot be evaluated, or nothing to evaluate."""


@dataclasses.dataclass
class _Tile:
    """What is kept of a tile."""

    row: dict[str, Any]
    dab: TileDab


class StainEvaluator:
    """Compares virtual with real stains: similarity of the images, stained area, and the DAB of each nucleus.

    Every tile is kept as a row, so that ranks merge exactly and nothing depends on how tiles were batched. A
    tile that comes twice, as where a sampler fills its last batch, counts once.

    Args:
        stains: names of the stains; a batch's `stain` counts them.
        mask: DAB density from which a pixel is stained, for the Dice overlap.
        presets: thresholds of the H-score by stain, or one for all: a preset's name, or `Thresholds`. None
            makes no H-scores, as scores without named thresholds say nothing.

    Raises:
        ThresholdError: a preset that is not known.
    """

    def __init__(
        self,
        stains: Sequence[str],
        *,
        mask: float = MASK,
        presets: Mapping[str, str | Thresholds] | str | Thresholds | None = None,
    ) -> None:
        self.stains, self.mask = tuple(stains), mask
        if presets is not None and not isinstance(presets, Mapping):
            presets = dict.fromkeys(self.stains, presets)
        self.presets = {
            stain: preset if isinstance(preset, Thresholds) else thresholds_named(preset)
            for stain, preset in (presets or {}).items()
        }
        self._tiles: dict[int, _Tile] = {}

    def __len__(self) -> int:
        return len(self._tiles)

    def update(self, fake: Any, batch: Any) -> None:
        """Adds a batch.

        Args:
            fake: `(B, 3, S, S)` uint8 tensor, the virtual stain.
            batch: a `StainBatch`: `ihc`, `nuclei`, `stain`, `case`, `index`.

        Raises:
            EvaluationError: sizes that differ from the batch's, or a stain that is not known.
            SimilarityError: no uint8 images.
        """
        real = batch.ihc.to(fake.device)
        size = len(fake)
        if tuple(fake.shape) != tuple(real.shape) or len(batch.case) != size or len(batch.index) != size:
            raise EvaluationError(
                f"virtual stains of shape {tuple(fake.shape)} for a batch of {tuple(real.shape)} with "
                f"{len(batch.case)} cases; expected one image of the same size for each tile"
            )
        figures = {
            name: measure(fake, real).cpu().numpy()
            for name, measure in (("psnr", psnr), ("ssim", ssim), ("ssim_paper", ssim_paper))
        }
        images = fake.cpu().numpy(), real.cpu().numpy()
        nuclei, stains = batch.nuclei.cpu().numpy(), batch.stain.tolist()
        for at, index in enumerate(batch.index.tolist()):
            if not 0 <= stains[at] < len(self.stains):
                raise EvaluationError(f"stain number {stains[at]} in a batch; the stains are {self.stains}")
            dab = tile_dab(images[0][at], images[1][at], nuclei[at], mask=self.mask)
            row = {"index": index, "case": batch.case[at], "stain": self.stains[stains[at]]}
            row |= {name: float(values[at]) for name, values in figures.items()}
            row |= _dab_figures(dab)
            row |= {"height": fake.shape[-2], "width": fake.shape[-1]}
            self._tiles.setdefault(index, _Tile(row, dab))

    def merge(self, *others: "StainEvaluator") -> "StainEvaluator":
        """Adds the tiles of other evaluators; without any, those of all ranks of this training.

        Where `torch.distributed` is not initialised there is nothing to gather. Every rank must call it, and
        all hold all tiles after it.

        Raises:
            EvaluationError: evaluators of other stains.
        """
        parts = [(other.stains, other._tiles) for other in others] if others else self._gathered()
        for stains, tiles in parts:
            if tuple(stains) != self.stains:
                raise EvaluationError(f"an evaluator of {stains} cannot be merged into one of {self.stains}")
            for index, tile in tiles.items():
                self._tiles.setdefault(index, tile)
        return self

    def _gathered(self) -> list[tuple[tuple[str, ...], dict[int, _Tile]]]:
        torch = sys.modules.get("torch")
        if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return []
        world = torch.distributed.get_world_size()
        parts: list[Any] = [None] * world
        if world > 1:
            torch.distributed.all_gather_object(parts, (self.stains, self._tiles))
        return [part for part in parts if part is not None]

    def table(self) -> pd.DataFrame:
        """One row a tile, in the order of `index`.

        Columns: index, case, stain, psnr, ssim, ssim_paper, dab_dice, dab_r, dab_mae, n_nuclei, dab_p90_fake,
        dab_p90_real, dab_both, dab_fake, dab_real (stained pixels), height, width. NaN marks what a tile has
        not: a Dice overlap without stained pixels, r of fewer than three nuclei or constant ones, an error
        without nuclei.

        Raises:
            EvaluationError: no tile yet.
        """
        return pd.DataFrame([tile.row for tile in self._sorted()])

    def nuclei(self) -> pd.DataFrame:
        """One row a nucleus and tile: case, stain, tile, label, real, fake (mean DAB density under one mask).

        A nucleus on a tile's border is in each of its tiles, with the part that lies there.

        Raises:
            EvaluationError: no tile yet.
        """
        tiles = self._sorted()
        n = [len(tile.dab.labels) for tile in tiles]
        columns = {
            "case": np.repeat(np.array([tile.row["case"] for tile in tiles], object), n),
            "stain": np.repeat(np.array([tile.row["stain"] for tile in tiles], object), n),
            "tile": np.repeat([tile.row["index"] for tile in tiles], n),
            "label": np.concatenate([tile.dab.labels for tile in tiles]),
            "real": np.concatenate([tile.dab.nuclei_real for tile in tiles]),
            "fake": np.concatenate([tile.dab.nuclei_fake for tile in tiles]),
        }
        return pd.DataFrame(columns, columns=list(NUCLEI))

    def histograms(self) -> pd.DataFrame:
        """DAB histograms: one row a case and stain; case, stain, fake, real, each `(BINS,)` counts.

        Raises:
            EvaluationError: no tile yet.
        """
        sums: dict[tuple[str, str], list[np.ndarray]] = {}
        for tile in self._sorted():
            key = tile.row["case"], tile.row["stain"]
            own = [tile.dab.histogram_fake, tile.dab.histogram_real]
            held = sums.get(key)
            sums[key] = own if held is None else [a + b for a, b in zip(held, own, strict=True)]
        rows = [{"case": c, "stain": s, "fake": f, "real": r} for (c, s), (f, r) in sums.items()]
        return pd.DataFrame(rows)

    def cases(self) -> pd.DataFrame:
        """One row a case and stain, see `summary.case_table`; with presets also its H-scores' error.

        Raises:
            EvaluationError: no tile yet.
        """
        nuclei = self.nuclei()
        found = case_table(self.table(), nuclei, self.histograms())
        if not self.presets:
            return found
        errors = h_score_errors(nuclei, self.presets)[["case", "stain", "h_fake", "h_real", "h_error"]]
        return found.merge(errors, on=["case", "stain"], how="left")

    def summary(self) -> dict[str, float]:
        """Means over cases (of each stain), over all and by stain: `psnr`, `er/psnr`, ….

        Beside them `tiles`, `cases`, `nuclei`, `identical` (tiles whose PSNR is capped), `tile_px` (side of
        the square that has a tile's mean area), and for each figure that some case does not have
        `undefined/NAME`, the number of those, which its mean leaves out. NaN where no case has it.

        Raises:
            EvaluationError: no tile yet.
        """
        return means(self.cases(), self.table())

    def _sorted(self) -> list[_Tile]:
        if not self._tiles:
            raise EvaluationError(
                "no tile was evaluated; call update first, or check that a case is held out"
            )
        return [self._tiles[index] for index in sorted(self._tiles)]


def _dab_figures(dab: TileDab) -> dict[str, float]:
    n = len(dab.labels)
    return {
        "dab_dice": dice(dab.both, dab.fake, dab.real),
        "dab_r": correlation(dab.nuclei_fake, dab.nuclei_real),
        "dab_mae": float(np.abs(dab.nuclei_fake - dab.nuclei_real).mean()) if n else float("nan"),
        "n_nuclei": n,
        "dab_p90_fake": dab.p90_fake,
        "dab_p90_real": dab.p90_real,
        "dab_both": dab.both,
        "dab_fake": dab.fake,
        "dab_real": dab.real,
    }
