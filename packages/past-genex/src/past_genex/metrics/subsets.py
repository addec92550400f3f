"""Which genes a figure is about: all, highly variable ones, markers of cell types."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_genex.data.slides import ExpressionSlide

MARKERS: Mapping[str, tuple[str, ...]] = {
    "epithelial": ("EPCAM", "KRT8", "KRT18", "KRT19", "CDH1"),
    "luminal breast": ("ESR1", "PGR", "GATA3", "FOXA1", "KRT7", "ERBB2"),
    "basal, myoepithelial": ("KRT5", "KRT14", "KRT17", "TP63", "MYLK", "ACTA2", "OXTR"),
    "alveolar": ("SFTPC", "SFTPB", "NAPSA", "AGER", "NKX2-1"),
    "intestinal": ("CDX2", "KRT20", "MUC2", "OLFM4", "LGR5", "FABP1"),
    "fibroblast": ("COL1A1", "COL1A2", "COL3A1", "DCN", "LUM", "PDGFRA", "PDGFRB", "FAP", "POSTN"),
    "smooth muscle, pericyte": ("ACTA2", "TAGLN", "MYH11", "RGS5", "NOTCH3"),
    "endothelial": ("PECAM1", "VWF", "CDH5", "CLDN5", "KDR"),
    "lymphatic endothelial": ("PROX1", "LYVE1", "PDPN"),
    "T cell": ("CD3D", "CD3E", "CD2", "TRAC", "IL7R", "CD4", "CD8A", "CD8B", "FOXP3"),
    "NK cell": ("NKG7", "GNLY", "KLRD1", "GZMB", "PRF1", "NCAM1"),
    "B cell": ("MS4A1", "CD79A", "CD79B", "CD19", "BANK1"),
    "plasma cell": ("MZB1", "JCHAIN", "XBP1", "SDC1", "IGHG1", "DERL3"),
    "macrophage": ("CD68", "CD163", "CD14", "C1QA", "C1QB", "MRC1", "FCGR3A", "LYZ"),
    "dendritic cell": ("CD1C", "CLEC9A", "LAMP3", "IRF8", "LILRA4", "ITGAX"),
    "mast cell": ("TPSAB1", "TPSB2", "CPA3", "KIT", "MS4A2"),
    "neutrophil": ("S100A8", "S100A9", "FCGR3B", "CSF3R"),
    "adipocyte": ("ADIPOQ", "PLIN1", "PLIN4", "LPL", "FABP4"),
    "proliferating": ("MKI67", "TOP2A", "CENPF", "PCNA", "STMN1"),
}
"""Canonical markers of human cell types, by HGNC symbol.

Common knowledge of the field; each can be looked up in CellMarker 2.0 (Hu et al., Nucleic Acids Research
2023) and PanglaoDB (Franzén et al., Database 2019). A symbol may mark several types.
"""

MAX_CELLS = 10_000
"""Cells of a slide that take part in its ranking, drawn at random: enough for variances."""


class SubsetError(PastError, ValueError):
    """A subset that cannot be made."""


def all_genes(slides: Sequence[ExpressionSlide]) -> pd.Index:
    """Every gene that a slide measures."""
    from past_genex.data.slides import union_genes

    return union_genes(slides)


def highly_variable(slides: Sequence[ExpressionSlide], *, n: int = 50, seed: int = 0) -> pd.Index:
    """The genes with the largest variance of Pearson residuals of counts (Lause, Berens & Kobak 2021).

    Residuals of a negative binomial of theta = 100 whose mean is the product of the cell's and the gene's
    totals, by scanpy, on each slide alone. A gene's place is its rank among the slide's genes over their
    number, median over the slides that measure it; the n genes with the smallest are taken, ties by more
    slides, then by name. Only give TRAINING slides: chosen on test slides, the subset knows the answer.

    Args:
        slides: the training slides.
        n: how many genes.
        seed: of the draw of cells from slides with more than `MAX_CELLS`.

    Returns:
        Gene ids, the most variable first.

    Raises:
        SubsetError: no slides, or n below 1 or above the number of genes with a count.
    """
    import scanpy as sc
    from anndata import AnnData

    if not slides:
        raise SubsetError("no slides to find highly variable genes on; give the training slides")
    places: dict[str, list[float]] = {}
    for slide in slides:
        rows = np.arange(slide.n_cells)
        if slide.n_cells > MAX_CELLS:
            rows = np.sort(np.random.default_rng(seed).choice(slide.n_cells, MAX_CELLS, replace=False))
        counts = slide.counts[rows].astype(np.float32)
        present = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel() > 0)
        counts = counts[:, present]
        # A subset of a panel's cells can be empty in the drawn genes only, never over all of them.
        table = AnnData(counts, var=pd.DataFrame(index=slide.genes[present].astype(str)))
        sc.experimental.pp.highly_variable_genes(table, n_top_genes=len(present), flavor="pearson_residuals")
        rank = table.var["residual_variances"].rank(ascending=False).to_numpy() / len(present)
        for gene, place in zip(slide.genes[present], rank, strict=True):
            places.setdefault(gene, []).append(float(place))
    if not 1 <= n <= len(places):
        raise SubsetError(f"{n} highly variable genes asked for; the slides have counts of {len(places)}")
    ordered = sorted(places, key=lambda gene: (np.median(places[gene]), -len(places[gene]), gene))
    return pd.Index(ordered[:n])


def markers(slides: Sequence[ExpressionSlide], path: str | Path | None = None) -> pd.Index:
    """Marker genes that a slide measures.

    Args:
        slides: any slides: only their lists of genes are read, no counts.
        path: a text file with a symbol or gene id a line (`#` begins a comment); else `MARKERS`.

    Returns:
        Gene ids, in the order of the list.

    Raises:
        SubsetError: the file cannot be read, or the slides measure none of its genes.
    """
    if path is None:
        wanted, source = [s for group in MARKERS.values() for s in group], "the list of canonical markers"
    else:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SubsetError(f"{path}: cannot be read as a list of genes, one a line: {error}") from error
        wanted, source = [word for line in lines if (word := line.split("#")[0].strip())], str(path)
    known: dict[str, list[str]] = {}
    for slide in slides:
        for gene, symbol in slide.symbols.items():
            for name in (str(gene), str(symbol)):
                if gene not in known.setdefault(name, []):
                    known[name].append(gene)
    found = list(dict.fromkeys(gene for name in wanted for gene in known.get(name, [])))
    if not found:
        raise SubsetError(
            f"{source}: none of its {len(wanted)} genes is among the slides'; expected symbols such as EPCAM "
            "or the slides' gene ids"
        )
    return pd.Index(found)
