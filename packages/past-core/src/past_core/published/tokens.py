"""Tokens as the published checkpoint was trained on."""

import numpy as np
from scipy import sparse

from past_core.tokens import CONTEXT_LENGTH, PAD, Vocabulary, rank_tokenize

CONTEXT_ORDER = ("modality", "assay", "organism")
"""Of the three context tokens; the paper's text has assay, organism, modality."""
NODE_GENES = 300
"""Genes of a cell that the graph sees; the transformer sees 297, for the context takes three of its 300."""


def published_tokens(
    counts: sparse.csr_matrix,
    gene_index: np.ndarray,
    means: np.ndarray,
    vocabulary: Vocabulary,
    *,
    assay: str = "xenium",
    organism: str = "human",
    modality: str = "spatial",
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of cells for `DualEncoderConfig.published`.

    Counts over the technology's mean, or over 1 where it has none: such genes outrank all others. Equal
    values are in the order of the vocabulary; the published code leaves their order to an unstable sort.

    Args:
        counts: (n, G) CSR of raw counts.
        gene_index: (G,) vocabulary index of each column, -1 for none.
        means: (n_genes,) means of the technology, NaN where none (`past_core.nicheformer.read_means`).
        vocabulary: nicheformer's.
        assay: context token.
        organism: context token.
        modality: context token.

    Returns:
        tokens (n, 303) int32 and lengths (n,), the three context tokens included. The transformer's input is
        `tokens[:, :300]`, the graph's `node_token_ids(tokens)`; the cell encoder takes the tokens whole.

    Raises:
        TokenError, VocabularyError: see `rank_tokenize` and `Vocabulary.context`.
    """
    context = vocabulary.context(assay, organism, modality, order=CONTEXT_ORDER)
    return rank_tokenize(counts, gene_index, means, context, max_genes=NODE_GENES, missing="one")


def node_token_ids(tokens: np.ndarray) -> np.ndarray:
    """What the published graph takes as a cell's features: the ids of its genes as numbers.

    Args:
        tokens: (n, 3 + g) from `published_tokens`, cut or not.

    Returns:
        (n, 300) float32, without context tokens, `PAD` (1) after the last gene.
    """
    ids = np.full((len(tokens), NODE_GENES), PAD, np.float32)
    genes = tokens[:, CONTEXT_LENGTH : CONTEXT_LENGTH + NODE_GENES]
    ids[:, : genes.shape[1]] = genes
    return ids
