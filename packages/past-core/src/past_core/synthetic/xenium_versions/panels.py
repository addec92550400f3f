"""Panels of other kinds than the simulator's own: Prime controls, custom genes."""

import numpy as np
import pandas as pd
from scipy import sparse

from past_core.synthetic.expression import Expression

PRIME_CONTROLS = {
    "Genomic Control": ("GenomicControl_{:04d}", 20, 0.01),
    "Deprecated Codeword": ("DeprecatedCodeword_{:05d}", 30, 0.02),
}
"""Name, number and mean counts a cell of the controls that only panels of 5,000 genes have."""


def with_prime_controls(expression: Expression, *, seed: int) -> Expression:
    """Adds genomic controls and deprecated codewords with counts.

    Args:
        expression: The slide's counts.
        seed: Of the added counts.
    """
    rng = np.random.default_rng([seed, 0x5052494D])
    blocks, rows = [expression.counts], [expression.features]
    for kind, (pattern, number, rate) in PRIME_CONTROLS.items():
        names = [pattern.format(index + 1) for index in range(number)]
        drawn = rng.poisson(rate, (expression.counts.shape[0], number)).astype(np.int32)
        blocks.append(sparse.csr_matrix(drawn))
        rows.append(pd.DataFrame({"id": names, "name": names, "feature_type": kind}))
    return Expression(sparse.hstack(blocks, format="csr"), pd.concat(rows, ignore_index=True))


def with_custom_genes(expression: Expression, names: tuple[str, ...]) -> Expression:
    """Renames the last genes as a custom panel names what has no Ensembl id: id and symbol are the user's.

    Args:
        expression: The slide's counts.
        names: The user's names.
    """
    features = expression.features.copy()
    genes = np.flatnonzero(features["feature_type"] == "Gene Expression")[-len(names) :]
    for column in ("id", "name"):
        features.loc[genes, column] = list(names)
    return Expression(expression.counts, features)
