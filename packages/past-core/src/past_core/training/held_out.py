"""Joint embeddings of held-out cells, collected over batches and processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from past_core.retrieval import SlideEmbeddings


class EmbeddingCollector:
    """Takes batches of embeddings and gives them back by slide, rows in table order."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, image: Tensor, cell: Tensor, slide: Tensor, row: Tensor) -> None:
        """Keeps a batch in main memory.

        Args:
            image: (B, dim) joint embeddings.
            cell: (B, dim) joint embeddings.
            slide: (B,) index of the slide.
            row: (B,) row in the slide's table.
        """
        self._parts.append((image.float().cpu(), cell.float().cpu(), slide.cpu(), row.cpu()))

    def gather(self, names: list[str], *, first: int) -> list[SlideEmbeddings]:
        """The slides of all processes' batches, alike on every process; nothing is kept.

        Args:
            names: of the held-out slides.
            first: index of the first of them among all slides.
        """
        parts, self._parts = self._parts, []
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        if not parts:
            return []
        image, cell, slide, row = (torch.cat(column) for column in zip(*parts, strict=True))
        result = []
        for index in slide.unique().tolist():
            members = torch.nonzero(slide == index).ravel()
            members = members[torch.argsort(row[members])]
            number = index - first
            result.append(SlideEmbeddings(names[number], number, row[members], image[members], cell[members]))
        return result
