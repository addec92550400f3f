"""The gene table of a count matrix that does not come with Ensembl ids and feature types."""

import logging
import re

import numpy as np
import pandas as pd

from past_core.ingest.orthologs import GeneTableError, symbols_to_ensembl

logger = logging.getLogger(__name__)

ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "Ensembl_ID", "id")
SYMBOL_COLUMNS = ("symbol", "gene_symbol", "gene_symbols", "gene_name", "gene_names", "name")
TYPE_COLUMNS = ("feature_types", "feature_type")
GENE_TYPE = "Gene Expression"

ENSEMBL = re.compile(r"^(ENS(?:MUS)?G\d{11})(?:\.\d+)?$")
CONTROL = re.compile(
    r"^(blank|neg(ative)?[ _-]?(control|prb|probe)|negative\d*$|negcontrol|unassigned ?codeword"
    r"|deprecated ?codeword|genomic ?control|antisense|intergenic|falsecode|system ?control)",
    re.IGNORECASE,
)
"""Names of controls in the exports of Xenium (`NegControlProbe_`), CosMx (`Negative`, `SystemControl`) and
MERSCOPE (`Blank-`)."""


def guess_organism(names: pd.Index) -> str:
    """Human or mouse, from Ensembl prefixes, else from the case of symbols (`EPCAM` against `Epcam`)."""
    text = [str(name) for name in names]
    if any(name.startswith("ENSMUSG") for name in text):
        return "mouse"
    if any(name.startswith("ENSG") for name in text):
        return "human"
    titled = sum(name[:1].isupper() and name[1:].islower() for name in text)
    return "mouse" if titled > len(text) / 2 else "human"


def gene_table(
    var: pd.DataFrame, source: str, *, organism: str | None = None
) -> tuple[pd.DataFrame, np.ndarray, dict[str, object]]:
    """Makes the gene table of a store from an AnnData's `var`: drops controls and finds Ensembl ids.

    Ids are taken from the index or a column (`gene_ids`, `ensembl_id`, ...), else looked up by symbol. A gene
    without an id stays, under its symbol: its counts are part of the cell's total, and no vocabulary knows
    it. Where two rows would have one id, the later one stays under its own name.

    Args:
        var: Features as they were read.
        source: What to call the file in a message.
        organism: `human` or `mouse`; None guesses.

    Returns:
        genes, indexed by id with `symbol`; keep (rows of `var` that are genes, int64); a report of counts.

    Raises:
        GeneTableError: If no feature is a gene, or no gene has an Ensembl id.
    """
    names = var.index.astype(str)
    is_gene = ~np.array([bool(CONTROL.match(name)) for name in names], dtype=bool)
    for column in TYPE_COLUMNS:
        if column in var:
            is_gene &= (var[column].astype(str) == GENE_TYPE).to_numpy()
            break
    keep = np.flatnonzero(is_gene)
    if not len(keep):
        raise GeneTableError(
            f"{source}: none of its {len(var)} features is a gene (first: {list(names[:3])})"
        )
    genes, names = var.iloc[keep], names[keep]
    organism = organism or guess_organism(names)

    symbols = _column(genes, SYMBOL_COLUMNS)
    symbols = names if symbols is None else symbols
    ids = _ensembl(names)
    for column in ID_COLUMNS:
        if not any(ids) and column in genes:
            ids = _ensembl(genes[column].astype(str))
    if not any(ids):
        ids = symbols_to_ensembl(list(symbols), organism)
    known = sum(gene is not None for gene in ids)
    if not known:
        raise GeneTableError(
            f"{source}: none of its {len(keep)} genes has an Ensembl id or a {organism} symbol "
            f"(first: {list(names[:3])}); check --organism, or put Ensembl ids in var['gene_ids']"
        )
    final, taken = [], set()
    for gene, name in zip(ids, names, strict=True):
        final.append(gene if gene is not None and gene not in taken else name)
        taken.add(final[-1])
    report = {
        "organism": organism,
        "features": len(var),
        "controls_dropped": len(var) - len(keep),
        "genes": len(keep),
        "without_ensembl_id": len(keep) - known,
    }
    if known < len(keep):
        logger.warning("%s: %d of %d genes have no Ensembl id", source, len(keep) - known, len(keep))
    return pd.DataFrame({"symbol": np.asarray(symbols, dtype=object)}, index=pd.Index(final)), keep, report


def _column(genes: pd.DataFrame, candidates: tuple[str, ...]) -> pd.Index | None:
    for column in candidates:
        if column in genes:
            return pd.Index(genes[column].astype(str))
    return None


def _ensembl(names: pd.Index | pd.Series) -> list[str | None]:
    matches = [ENSEMBL.match(str(name)) for name in names]
    return [match.group(1) if match else None for match in matches]
