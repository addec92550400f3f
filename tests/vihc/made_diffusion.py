"""A data module and an evaluator as small as they can be, for the tests of the diffusion task."""

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from past_vihc.data.batch import StainBatch


class MadeTiles(pl.LightningDataModule):
    """Tiles of two training cases, one that validates and one that tests; the stain is the inverted H&E."""

    def __init__(
        self, *, stains: tuple[str, ...] = ("er",), tile: int = 16, dim: int = 0, grid: bool = False
    ):
        super().__init__()
        self.stains, self.tile, self.mpp, self.pitch_um, self.seed = stains, tile, 0.5, 4.0, 0
        self.granularity, self.synthetic, self.embedding_dim = "cells" if grid else "tile", True, dim
        self.encoder = SimpleNamespace(name="made", fingerprint="f" * 64, dim=dim, demo=True) if dim else None
        part = np.repeat(["train", "val", "test"], [8, 12, 12])
        place = np.concatenate([np.arange(8), np.arange(12), np.arange(12)])
        self.tiles = pd.DataFrame(
            {
                "case": np.repeat(["A", "B", "C", "D"], [4, 4, 12, 12]),
                "stain": "er",
                "source": "image",
                "y": place // 4 * tile,
                "x": place % 4 * tile,
                "kept": True,
                "part": part,
            }
        )
        generator = torch.Generator().manual_seed(0)
        he = torch.rand(len(part), 3, 2, 2, generator=generator)
        he = torch.nn.functional.interpolate(he, size=(tile, tile), mode="bilinear")
        self.he = (he * 255).to(torch.uint8)
        shape = (len(part), dim, 3, 3) if grid else (len(part), dim)
        self.embeddings = torch.randn(shape, generator=generator)

    @property
    def batches_per_epoch(self) -> int:
        """Of 4 tiles."""
        return 2

    def batch(self, rows: list[int]) -> StainBatch:
        """Some rows as a batch."""
        he, at = self.he[rows], torch.tensor(rows)
        return StainBatch(
            he=he,
            ihc=255 - he,
            embedding=self.embeddings[rows],
            stain=at % len(self.stains),
            nuclei=torch.zeros(len(rows), self.tile, self.tile, dtype=torch.int32),
            case=self.tiles["case"].iloc[rows].tolist(),
            index=at,
        )

    def _loader(self, part: str) -> DataLoader:
        rows = np.flatnonzero(self.tiles["part"] == part).tolist()
        return DataLoader(rows, batch_size=4, collate_fn=self.batch)

    def train_dataloader(self) -> DataLoader:
        """Always in the same order."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Of the case C."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Of the case D."""
        return self._loader("test")


class MadeEvaluator:
    """Remembers what it was given; its figure is the mean absolute error."""

    def __init__(self, *_: Any) -> None:
        self.numbers: list[int] = []
        self.errors: list[float] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def update(self, fake: Tensor, batch: StainBatch) -> None:
        """Checks and keeps a batch."""
        assert fake.dtype == torch.uint8
        assert fake.shape == batch.ihc.shape
        assert len(batch.case) == len(fake)
        self.numbers += batch.index.tolist()
        self.errors += (fake.float() - batch.ihc.float()).abs().mean(dim=(1, 2, 3)).tolist()

    def merge(self) -> None:
        """There is one rank."""

    def summary(self) -> dict[str, float]:
        """The mean error."""
        return {"mae": float(np.mean(self.errors))}
