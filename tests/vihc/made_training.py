"""A data module of random tiles and an evaluator that counts, for the tests of training tasks."""

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch

from past_vihc.data.batch import StainBatch

TILE = 32


class RandomTiles(pl.LightningDataModule):
    """Random tiles; their order is always the same, and a loader resumes in mid-epoch."""

    mpp, tile, pitch_um, synthetic, seed = 0.5, TILE, 8.0, True, 0

    def __init__(
        self,
        *,
        dim: int = 5,
        granularity: str = "tile",
        stains: tuple[str, ...] = ("er",),
        batches: int = 4,
        fingerprint: str = "ab" * 32,
        shuffle_embeddings: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim, self.granularity, self.stains = dim, granularity, stains
        self.batches_per_epoch, self.shuffle_embeddings = batches, shuffle_embeddings
        self.encoder = (
            SimpleNamespace(name="enc", fingerprint=fingerprint, dim=dim, demo=True) if dim else None
        )

    def batch(self, number: int, size: int = 2) -> StainBatch:
        draw = torch.Generator().manual_seed(number)
        he, ihc = (
            torch.randint(0, 256, (size, 3, TILE, TILE), dtype=torch.uint8, generator=draw) for _ in range(2)
        )
        shape = (size, self.embedding_dim) + ((3, 3) if self.granularity == "cells" else ())
        return StainBatch(
            he,
            ihc,
            torch.randn(shape, generator=draw),
            torch.arange(size) % len(self.stains),
            torch.zeros(size, TILE, TILE, dtype=torch.int32),
            [f"case {number}"] * size,
            torch.arange(size),
        )

    def train_dataloader(self) -> "Resumable":
        return Resumable([self.batch(number) for number in range(self.batches_per_epoch)])

    def val_dataloader(self) -> "Resumable":
        return Resumable([self.batch(100)])

    test_dataloader = val_dataloader


class Resumable:
    """A loader with its place in the epoch as state."""

    def __init__(self, batches: list[StainBatch]) -> None:
        self.batches, self.first, self.handed = batches, 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        first, self.first = self.first, 0
        self.handed = first
        for batch in self.batches[first:]:
            self.handed += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"handed": self.handed % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first = state["handed"]


class Counting:
    """An evaluator that keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, StainBatch]] = []

    def update(self, fake: torch.Tensor, batch: StainBatch) -> None:
        self.seen.append((fake, batch))

    def merge(self) -> None:
        """One process."""

    def summary(self) -> dict[str, float]:
        return {"psnr": 20.0 + len(self.seen), "dab_r": float("nan")}
