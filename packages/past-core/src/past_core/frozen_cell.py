"""The frozen cell encoder: raw counts and coordinates to vectors."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from past_core.checkpoint import PastCheckpoint
from past_core.frozen import EncoderError, Space, check_space, fingerprint
from past_core.ingest.neighbors import spatial_neighbors
from past_core.tokens import CONTEXT_LENGTH, rank_tokenize, trim_padding

NEIGHBORS = 8
"""Neighbours of a cell where coordinates are given, as in a slide store."""


class Neighborhood(NamedTuple):
    """Neighbours: `index` `(N, k)` rows, -1 where absent; `distance` `(N, k)` over the slide's median."""

    index: np.ndarray  # type: ignore[assignment]  # in place of tuple.index
    distance: np.ndarray

    @classmethod
    def from_distances(cls, index: np.ndarray, distance_um: np.ndarray, *, median_um: float) -> Self:
        """From distances in µm, whatever stands where a neighbour is absent."""
        scale = median_um if np.isfinite(median_um) and median_um > 0 else 1.0
        return cls(index, np.where(index >= 0, distance_um, 0.0).astype(np.float32) / np.float32(scale))

    @classmethod
    def from_coordinates(cls, coordinates_um: np.ndarray) -> Self:
        """The nearest cells around each, as `past ingest` finds them."""
        index, distance = spatial_neighbors(coordinates_um, NEIGHBORS)
        finite = distance[np.isfinite(distance)]
        median = float(np.median(finite)) if len(finite) else float("nan")
        return cls.from_distances(index, distance, median_um=median)


class FrozenCellEncoder:
    """A cell encoder with fixed weights, its vocabulary and its gene means.

    Attributes:
        name: what it was loaded as.
        space: "features" or "joint".
        dim: length of its vectors.
        vocabulary: the genes that it knows.
        fingerprint: sha256 of weights, vocabulary and gene means.
        demo: whether it was trained on synthetic tissue.
    """

    def __init__(
        self, name: str, checkpoint: PastCheckpoint, space: Space = "features", *, demo: bool = False
    ) -> None:
        check_space(space)
        self.name, self.space, self.demo = name, space, demo
        self.vocabulary, self._means = checkpoint.vocabulary, checkpoint.gene_means
        self._encoder = checkpoint.model.cell_encoder.eval().requires_grad_(requires_grad=False)
        head = checkpoint.model.cell_projection.eval().requires_grad_(requires_grad=False)
        self._head: nn.Module | None = head if space == "joint" else None
        config = self._encoder.config
        self.max_genes = config.max_genes
        self.dim: int = config.width if self._head is None else head.layer_norm.normalized_shape[0]
        parts: dict[str, nn.Module | torch.Tensor] = {
            "encoder": self._encoder,
            "means": torch.from_numpy(self._means),
        }
        if self._head is not None:
            parts["head"] = self._head
        settings = {"config": vars(config), "vocabulary": self.vocabulary.fingerprint, "space": space}
        self.fingerprint = fingerprint(settings, parts)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._encoder.embeddings.weight.device

    def to(self, device: str | torch.device) -> Self:
        """Moves it."""
        self._encoder.to(device)
        if self._head is not None:
            self._head.to(device)
        return self

    def __call__(
        self,
        counts: sparse.csr_matrix,
        genes: Sequence[str],
        coordinates_um: np.ndarray | None = None,
        *,
        neighborhood: Neighborhood | None = None,
        rows: np.ndarray | None = None,
        assay: str = "xenium",
        organism: str = "human",
        modality: str = "spatial",
        batch_size: int = 256,
        progress: Callable[[int], None] | None = None,
        source: str = "the panel",
    ) -> Tensor:
        """Embeds cells with their neighbourhoods.

        Args:
            counts: `(N, G)` raw counts.
            genes: G Ensembl ids.
            coordinates_um: `(N, 2)` in µm, from which neighbours are found.
            neighborhood: known neighbours instead; with neither, every cell stands alone.
            rows: which cells to embed, all by default; the others serve as neighbours only.
            assay: context token, such as "xenium".
            organism: context token.
            modality: context token.
            batch_size: cells at a time.
            progress: called with the number of cells done after every batch.
            source: what the counts are, for messages.

        Returns:
            `(N, dim)` float32 on the CPU (`len(rows)` rows where given); NaN for a cell that has not one
            count of a gene that the encoder knows, for it has no representation.

        Raises:
            VocabularyError: no gene is in the vocabulary, or an unknown context.
            TokenError: counts that are negative or not finite.
            EncoderError: shapes that do not fit.
        """
        counts = sparse.csr_matrix(counts)
        index = self.vocabulary.overlap(list(genes), source=source)
        config = self._encoder.config
        context = self.vocabulary.context(assay, organism, modality, order=config.context_order)
        n = counts.shape[0]
        if neighborhood is None:
            neighborhood = self._neighborhood(coordinates_um, n)
        if neighborhood.index.shape[0] != n or neighborhood.distance.shape != neighborhood.index.shape:
            raise EncoderError(f"neighbours of {neighborhood.index.shape[0]} cells for counts of {n}")
        rows = np.arange(n) if rows is None else np.asarray(rows, np.int64)
        out = torch.empty(len(rows), self.dim)
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            unique, centres, near = _localize(part, neighborhood.index[part])
            tokens, lengths = rank_tokenize(
                counts[unique],
                index,
                self._means,
                context,
                max_genes=self.max_genes,
                missing=config.missing_means,
            )
            tokens = trim_padding(tokens, lengths)
            if lengths.max() > CONTEXT_LENGTH:
                vectors = self._encode(tokens, centres, near, neighborhood.distance[part], lengths[centres])
                vectors[torch.from_numpy(lengths[centres] <= CONTEXT_LENGTH)] = torch.nan
            else:  # not one gene in the batch, which the networks cannot take
                vectors = torch.full((len(part), self.dim), torch.nan)
            out[start : start + len(part)] = vectors
            if progress is not None:
                progress(len(part))
        return out

    def _neighborhood(self, coordinates_um: np.ndarray | None, n: int) -> Neighborhood:
        if coordinates_um is None:
            return Neighborhood(np.full((n, NEIGHBORS), -1), np.zeros((n, NEIGHBORS), np.float32))
        coordinates_um = np.asarray(coordinates_um, np.float64)
        if coordinates_um.shape != (n, 2) or not np.isfinite(coordinates_um).all():
            raise EncoderError(
                f"coordinates of shape {coordinates_um.shape} for {n} cells; expected ({n}, 2), finite, in µm"
            )
        return Neighborhood.from_coordinates(coordinates_um)

    @torch.no_grad()
    def _encode(
        self,
        tokens: np.ndarray,
        centres: np.ndarray,
        near: np.ndarray,
        distance: np.ndarray,
        lengths: np.ndarray,
    ) -> Tensor:
        arrays = (tokens.astype(np.int64), centres, near, distance.astype(np.float32))
        inputs = (torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in arrays)
        vectors = self._encoder(*inputs, lengths)
        if self._head is not None:
            vectors = nn.functional.normalize(self._head(vectors).float(), dim=-1)
        return vectors.float().cpu()

    def __repr__(self) -> str:
        return (
            f"FrozenCellEncoder({self.name!r}, {self.space}, dim={self.dim}, {len(self.vocabulary)} genes, "
            f"{self.fingerprint[:12]})"
        )


def _localize(rows: np.ndarray, neighbors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unique cells of a batch, and centres `(B,)` and neighbours `(B, k)` as indices into them."""
    present = neighbors >= 0
    unique, inverse = np.unique(np.concatenate([rows, neighbors[present]]), return_inverse=True)
    near = np.full(neighbors.shape, -1, np.int64)
    near[present] = inverse[len(rows) :]
    return unique, inverse[: len(rows)], near
