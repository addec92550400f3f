"""The vocabulary of rank tokens: Ensembl ids, special tokens and the content hash that checkpoints keep.

Ids 0..29 are special (mask, padding, and one token for each modality, organism and assay), the gene at
index i of the list has token 30 + i. The numbering of the special tokens is that of the 20,310-gene
vocabulary which the paper takes over (theislab/nicheformer, BSD-3).
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from past_core.errors import PastError

logger = logging.getLogger(__name__)

MASK = 0
PAD = 1
CLS = 2
FIRST_GENE = 30
"""Token of the gene at index 0; 19..29 are reserved."""
CONTEXT_LENGTH = 3
"""Every sequence starts with `<assay> <organism> <modality>`."""

MODALITIES = {"dissociated": 3, "spatial": 4}
ORGANISMS = {"human": 5, "mouse": 6}
ASSAYS = {
    "merfish": 7,
    "cosmx": 8,
    "xenium": 9,
    "10x 5' v2": 10,
    "10x 3' v3": 11,
    "10x 3' v2": 12,
    "10x 5' v1": 13,
    "10x 3' v1": 14,
    "10x 3' transcription profiling": 15,
    "10x 5' transcription profiling": 16,
    "cite-seq": 17,
    "smart-seq v4": 18,
}
_CONTEXT = {"assay": ASSAYS, "organism": ORGANISMS, "modality": MODALITIES}
_VERSIONED = re.compile(r"(ENS[A-Z]*G\d+)\.\d+")


class VocabularyError(PastError, ValueError):
    """A vocabulary cannot be made, or does not fit the genes or the checkpoint it is used with."""


class VocabularyNotFoundError(PastError, FileNotFoundError):
    """The vocabulary's file is not there and could not be fetched."""


def gene_id(name: str) -> str:
    """An Ensembl id without its version (`ENSG00000139618.19` -> `ENSG00000139618`); others as they are."""
    name = name.strip()
    match = _VERSIONED.fullmatch(name)
    return match.group(1) if match else name


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of genes, each the owner of one token.

    Args:
        genes: gene ids in the order of their tokens, unique, without Ensembl versions. Use
            `from_panel` or `nicheformer` rather than listing them yourself.

    Raises:
        VocabularyError: no genes, an empty id, or an id that occurs twice.
    """

    genes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", tuple(self.genes))
        if not self.genes:
            msg = "a vocabulary needs at least one gene, got none; is the panel's gene table empty?"
            raise VocabularyError(msg)
        for position, gene in enumerate(self.genes):
            if not isinstance(gene, str) or not gene.strip():
                msg = f"gene {position} of the vocabulary is {gene!r}; expected a non-empty gene id"
                raise VocabularyError(msg)
            if gene_id(gene) != gene:
                msg = f"gene {position} of the vocabulary is {gene!r}; expected it without version"
                raise VocabularyError(msg)
        if len(self._index) < len(self.genes):
            twice = next(gene for gene, count in Counter(self.genes).items() if count > 1)
            msg = f"gene {twice!r} occurs twice in the vocabulary; every gene needs exactly one token"
            raise VocabularyError(msg)

    @classmethod
    def from_panel(cls, genes: Iterable[str]) -> Self:
        """The vocabulary of one or several panels: their ids without versions, sorted, each once."""
        return cls(tuple(sorted({gene_id(gene) for gene in genes})))

    @classmethod
    def nicheformer(cls, path: str | Path | None = None) -> Self:
        """The paper's 20,310 genes.

        Args:
            path: `nicheformer_vocab_20310.csv` (columns `index`, `token`, `ensembl_id`) or the
                nicheformer repository's `model.h5ad`; without it that file is fetched once into the cache.

        Raises:
            VocabularyError: the file does not hold exactly these genes in this order.
            VocabularyNotFoundError: no such file, or it could not be fetched (no network).
        """
        from past_core.nicheformer import read_genes

        return cls(read_genes(path))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {gene: index for index, gene in enumerate(self.genes)}

    def __len__(self) -> int:
        return len(self.genes)

    @property
    def size(self) -> int:
        """Number of token ids, special ones included (rows of the embedding table)."""
        return FIRST_GENE + len(self.genes)

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of the content: every special token and every gene with its token."""
        special = [("mask", MASK), ("pad", PAD), ("cls", CLS), ("first gene", FIRST_GENE)]
        for table in (MODALITIES, ORGANISMS, ASSAYS):
            special += table.items()
        lines = [f"{name}={token}" for name, token in special]
        return hashlib.sha256("\n".join([*lines, *self.genes]).encode()).hexdigest()

    def lookup(self, genes: Sequence[str]) -> np.ndarray:
        """Index of each gene in the vocabulary, (n,) int64; -1 where it has none. Versions are ignored."""
        index = self._index
        found = (index.get(gene, -1) for gene in map(gene_id, genes))
        return np.fromiter(found, dtype=np.int64, count=len(genes))

    def overlap(self, genes: Sequence[str], *, source: str = "the panel") -> np.ndarray:
        """`lookup` for a slide or panel that must share genes with the vocabulary; logs what is left out.

        Raises:
            VocabularyError: not one gene is in the vocabulary.
        """
        index = self.lookup(genes)
        absent = np.flatnonzero(index < 0)
        if len(absent) == len(index):
            some = ", ".join(map(str, genes[:3])) or "nothing"
            msg = (
                f"none of the {len(index)} genes of {source} ({some}, ...) is in the vocabulary of "
                f"{len(self)} genes ({', '.join(self.genes[:3])}, ...); expected ids of the same kind: "
                "map symbols or mouse genes to human Ensembl ids, or use the vocabulary of this panel"
            )
            raise VocabularyError(msg)
        if len(absent):
            some = ", ".join(str(genes[i]) for i in absent[:5])
            logger.warning(
                "%d of %d genes of %s are not in the vocabulary and are left out: %s%s",
                len(absent), len(index), source, some, ", ..." if len(absent) > 5 else "",
            )  # fmt: skip
        return index

    def context(
        self,
        assay: str,
        organism: str,
        modality: str,
        *,
        order: Sequence[str] = ("assay", "organism", "modality"),
    ) -> np.ndarray:
        """Tokens that every sequence of a slide starts with, (3,) int64.

        Args:
            assay: one of `ASSAYS`, e.g. "xenium".
            organism: "human" or "mouse".
            modality: "spatial" or "dissociated".
            order: the paper's order; the published code has ("modality", "assay", "organism").

        Raises:
            VocabularyError: a name without a token.
        """
        given = {"assay": assay, "organism": organism, "modality": modality}
        tokens = []
        for kind in order:
            token = _CONTEXT[kind].get(str(given[kind]).lower())
            if token is None:
                msg = f"no token for {kind} {given[kind]!r}; known are {', '.join(_CONTEXT[kind])}"
                raise VocabularyError(msg)
            tokens.append(token)
        return np.array(tokens, dtype=np.int64)

    def require(self, fingerprint: str, *, owner: str = "the checkpoint") -> None:
        """Check that something was made with this vocabulary.

        Raises:
            VocabularyError: `fingerprint` is another vocabulary's; the message names both.
        """
        if fingerprint != self.fingerprint:
            msg = (
                f"{owner} was made with vocabulary {fingerprint[:12]}, this one is {self.fingerprint[:12]} "
                f"({len(self)} genes from {self.genes[0]} to {self.genes[-1]}); "
                f"use the vocabulary stored in {owner}"
            )
            raise VocabularyError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint; `from_dict` is the inverse."""
        return {"genes": list(self.genes), "fingerprint": self.fingerprint}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The vocabulary that `to_dict` wrote.

        Raises:
            VocabularyError: a key is missing, or the genes do not have the stored fingerprint.
        """
        if not isinstance(stored, Mapping) or not {"genes", "fingerprint"} <= set(stored):
            msg = (
                "the stored vocabulary lacks the keys `genes` and `fingerprint`; is the checkpoint complete?"
            )
            raise VocabularyError(msg)
        vocabulary = cls(tuple(stored["genes"]))
        if vocabulary.fingerprint != stored["fingerprint"]:
            msg = (
                f"the stored vocabulary of {len(vocabulary)} genes has fingerprint "
                f"{vocabulary.fingerprint[:12]}, not {str(stored['fingerprint'])[:12]} as written beside it; "
                "the checkpoint is damaged"
            )
            raise VocabularyError(msg)
        return vocabulary
