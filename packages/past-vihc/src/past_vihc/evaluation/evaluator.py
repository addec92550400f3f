"""Collects what is measured of every held-out tile, over batches and ranks, and sums it up by case."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from past_core.stains import StainSet
from past_vihc.data.batch import StainBatch
from past_vihc.evaluation.dab import correlation, dab_figures, nuclear_pair
from past_vihc.evaluation.similarity import psnr, ssim, ssim_paper
from past_vihc.hscore.quantify import White

MEASURES = ("psnr", "ssim", "ssim_paper", "dab_dice", "dab_mae")
"""Columns of the tiles' table that are averaged over a case's tiles."""
TILE_COLUMNS = ("index", "case", "stain", "side", *MEASURES, "dab_r", "dab_p90", "n_nuclei")
NUCLEUS_COLUMNS = ("case", "stain", "tile", "label", "real", "fake")


class StainEvaluator:
    """Figures of virtual against real stain, tile by tile and nucleus by nucleus.

    Args:
        stains: names, in the order of a batch's `stain`.
        vectors: set of stain vectors by which DAB is read.
        white: value of bare glass.
    """

    def __init__(
        self, stains: Sequence[str], *, vectors: str | StainSet = "qupath-hdab", white: White = 255.0
    ) -> None:
        self.stains, self.vectors, self.white = tuple(stains), vectors, white
        self._tiles: list[dict[str, Any]] = []
        self._nuclei: list[pd.DataFrame] = []

    def update(self, fake: Tensor, batch: StainBatch) -> None:
        """Measures a batch.

        Args:
            fake: `(B, 3, S, S)` uint8, the virtual stain.
            batch: the batch it was made from.
        """
        images = fake.detach().cpu().numpy()
        for row, (case, stain) in enumerate(zip(batch.case, batch.stain.tolist(), strict=True)):
            real = batch.ihc[row].cpu().numpy()
            nuclei, index = batch.nuclei[row].cpu().numpy(), int(batch.index[row])
            settings = {"stains": self.vectors, "white": self.white}
            pair = nuclear_pair(images[row], real, nuclei, **settings)
            figures = dab_figures(images[row], real, pair, **settings)
            self._tiles.append(
                {
                    "index": index,
                    "case": case,
                    "stain": self.stains[stain],
                    "side": real.shape[-1],
                    "psnr": psnr(images[row], real),
                    "ssim": ssim(images[row], real),
                    "ssim_paper": ssim_paper(images[row], real),
                    "dab_dice": figures.dice,
                    "dab_mae": figures.mae,
                    "dab_r": figures.r,
                    "dab_p90": figures.p90,
                    "n_nuclei": len(pair.labels),
                }
            )
            self._nuclei.append(
                pd.DataFrame(
                    {
                        "case": case,
                        "stain": self.stains[stain],
                        "tile": index,
                        "label": pair.labels,
                        "real": pair.real,
                        "fake": pair.fake,
                    }
                )
            )

    def merge(self) -> None:
        """Takes in what the other ranks measured, so that every rank has all; alone it does nothing."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, (self._tiles, self._nuclei))
        self._tiles = [row for tiles, _ in gathered for row in tiles]
        self._nuclei = [table for _, tables in gathered for table in tables]

    def table(self) -> pd.DataFrame:
        """One row a tile, in the order of `index`: see `TILE_COLUMNS`. What is undefined is NaN."""
        table = pd.DataFrame(self._tiles, columns=list(TILE_COLUMNS))
        return table.sort_values("index", kind="stable").reset_index(drop=True)

    def nuclei(self) -> pd.DataFrame:
        """One row a nucleus: see `NUCLEUS_COLUMNS`."""
        tables = [table for table in self._nuclei if len(table)]
        if not tables:
            return pd.DataFrame(columns=list(NUCLEUS_COLUMNS))
        return pd.concat(tables, ignore_index=True).sort_values(["tile", "label"], ignore_index=True)

    def cases(self) -> pd.DataFrame:
        """One row a case and stain: means over its tiles, `dab_r` over all its nuclei, `tiles`, `nuclei`."""
        nuclei = self.nuclei()
        rows = []
        for (case, stain), tiles in self.table().groupby(["case", "stain"], sort=True):
            own = nuclei[(nuclei["case"] == case) & (nuclei["stain"] == stain)]
            rows.append(
                {
                    "case": case,
                    "stain": stain,
                    # A measure that no tile has (no nuclei, nothing stained) stays undefined.
                    **{name: tiles[name].mean() for name in MEASURES},
                    "dab_r": correlation(own["fake"].to_numpy(float), own["real"].to_numpy(float)),
                    "tiles": len(tiles),
                    "nuclei": len(own),
                }
            )
        return pd.DataFrame(rows, columns=["case", "stain", *MEASURES, "dab_r", "tiles", "nuclei"])

    def summary(self) -> dict[str, float]:
        """Means over cases, by the names of the measures; with several stains also `STAIN/measure`.

        `cases_without_dab_r` counts the cases whose correlation is undefined and left out, `side` is the size
        in pixels at which was evaluated.
        """
        cases, tiles = self.cases(), self.table()
        if cases.empty:
            return {}
        names = [*MEASURES, "dab_r"]
        summary = {name: float(cases[name].mean()) for name in names}
        if len(self.stains) > 1:
            for stain, own in cases.groupby("stain"):
                summary |= {f"{stain}/{name}": float(own[name].mean()) for name in names}
        return summary | {
            "tiles": float(len(tiles)),
            "side": float(np.median(tiles["side"])),
            "cases_without_dab_r": float(cases["dab_r"].isna().sum()),
        }
