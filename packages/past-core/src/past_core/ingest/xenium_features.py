"""Tells the genes of a Xenium panel from proteins and from controls."""

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from past_core.ingest.checks import SlideDataError, cell_totals, whole_counts
from past_core.ingest.xenium_files import BundleError
from past_core.ingest.xenium_matrix import Matrix

logger = logging.getLogger(__name__)

GENE_EXPRESSION = "Gene Expression"
PROTEIN_EXPRESSION = "Protein Expression"

NEGATIVE_CONTROLS = ("Negative Control Probe", "Negative Control Codeword")
"""What measures false calls; deprecated and unassigned codewords are of another kind, and far more."""

_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{11}(\.\d+)?$")


class Features(NamedTuple):
    """A count matrix, taken apart.

    Attributes:
        counts: (N, G) int32 counts of the genes.
        genes: (G rows) indexed by the panel's id, usually Ensembl's; column symbol.
        proteins: (N rows) float32 scaled mean intensities, one column a protein, or None.
        control_counts: (N,) counts of all other features.
        negative_control_counts: (N,) of them those of negative controls, probes and codewords.
        record: For the store's report: `features_dropped` and `counts_dropped` by type, `custom_genes`
            without an Ensembl id, `proteins`.
    """

    counts: csr_matrix
    genes: pd.DataFrame
    proteins: pd.DataFrame | None
    control_counts: np.ndarray
    negative_control_counts: np.ndarray
    record: dict[str, Any]


def split_features(matrix: Matrix, path: Path) -> Features:
    """Keeps genes and proteins apart; controls (negative, genomic, deprecated, unassigned) are counted only.

    Genes of a custom panel that have no Ensembl id keep the id that the panel gives them.

    Args:
        matrix: All features.
        path: The file, for messages.

    Raises:
        BundleError: There is no gene, a gene or protein occurs twice, an id is empty, a count is no whole
            number, or an intensity no finite one.
    """
    kind = matrix.features["feature_type"].astype(str)
    gene, protein = (kind == GENE_EXPRESSION).to_numpy(), (kind == PROTEIN_EXPRESSION).to_numpy()
    if not gene.any():
        found = ", ".join(sorted(kind.unique())[:20]) or "nothing"
        raise BundleError(f"{path}: no feature has feature_type {GENE_EXPRESSION!r}; found {found}")
    _unique(matrix.features[gene], "id", "gene id", path)
    ids = matrix.features["id"][gene]
    try:
        whole = whole_counts(
            matrix.counts[:, np.flatnonzero(~protein)] if protein.any() else matrix.counts,
            str(path),
            pd.Index(matrix.barcodes),
            pd.Index(matrix.features["id"][~protein]),
        )
    except SlideDataError as error:
        raise BundleError(str(error)) from error
    counted = kind[~protein].reset_index(drop=True)
    is_gene = (counted == GENE_EXPRESSION).to_numpy()
    counts = whole[:, np.flatnonzero(is_gene)]
    genes = pd.DataFrame({"symbol": matrix.features["name"][gene].to_numpy()}, index=pd.Index(ids.to_numpy()))
    custom = [name for name in ids if not _ENSEMBL.match(name)]
    if custom:
        logger.warning(
            "%s: %d of %d genes have no Ensembl id (such as %r); they keep the panel's ids",
            path, len(custom), len(ids), custom[0],
        )  # fmt: skip
    dropped, lost = {}, {}
    for name, number in counted[~is_gene].value_counts().sort_index().items():
        dropped[str(name)] = int(number)
        lost[str(name)] = int(whole[:, np.flatnonzero(counted == name)].sum(dtype=np.int64))
    record = {"features_dropped": dropped, "counts_dropped": lost, "custom_genes": len(custom)}
    proteins = _proteins(matrix, protein, path)
    if proteins is not None:
        record["proteins"] = proteins.shape[1]
    controls = cell_totals(whole)[0] - cell_totals(counts)[0]
    negative = cell_totals(whole[:, np.flatnonzero(counted.isin(NEGATIVE_CONTROLS))])[0]
    return Features(counts, genes, proteins, controls, negative, record)


def _unique(features: pd.DataFrame, column: str, what: str, path: Path) -> None:
    repeated = features[column][features[column].duplicated()]
    if len(repeated):
        raise BundleError(
            f"{path}: {what} {repeated.iloc[0]!r} occurs twice (second: feature {repeated.index[0]})"
        )
    empty = features.index[features[column].str.strip() == ""]
    if len(empty):
        raise BundleError(f"{path}: {what} of feature {empty[0]} is empty")


def _proteins(matrix: Matrix, protein: np.ndarray, path: Path) -> pd.DataFrame | None:
    """Mean intensities of the proteins; the file holds them times a factor, as whole numbers."""
    if not protein.any():
        return None
    features = matrix.features[protein]
    _unique(features, "name", "protein", path)
    values = matrix.counts[:, np.flatnonzero(protein)].toarray() / matrix.protein_scale
    bad = np.argwhere(~np.isfinite(values) | (values < 0))
    if len(bad):
        row, column = bad[0]
        raise BundleError(
            f"{path}: {values[row, column]} of protein {features['name'].iloc[column]!r} in cell "
            f"{matrix.barcodes[row]!r} is no intensity from 0"
        )
    return pd.DataFrame(
        values.astype(np.float32), columns=features["name"].astype(str).to_numpy(), index=matrix.barcodes
    )
