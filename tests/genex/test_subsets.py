"""Subsets of genes on synthetic slides."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from past_genex.data.slides import ExpressionSlide
from past_genex.metrics.subsets import MARKERS, SubsetError, all_genes, highly_variable, markers


class Panel:
    """What the subsets read of a slide, with counts of known spread."""

    def __init__(self, genes: list[str], spread: list[float], seed: int) -> None:
        rng = np.random.default_rng(seed)
        # Flat genes dominate the totals, so that a gene's spread is its own.
        genes = [*genes, *(f"flat{k}" for k in range(40))]
        spread = np.array([*spread, *[0.0] * 40])
        level = 3 * np.exp((rng.integers(0, 2, (400, len(genes))) - 0.5) * spread)
        self.genes = pd.Index(genes)
        self.symbols = pd.Series([gene.upper() for gene in genes], index=self.genes)
        self.counts = sparse.csr_matrix(rng.poisson(level))
        self.n_cells = 400


def test_the_most_variable_genes_come_first_whatever_panel_they_are_on() -> None:
    names = list("abcdefgh")
    one = Panel(names, [0, 0, 0, 3, 0, 2, 0, 0], 0)
    two = Panel([*names[2:], "i"], [0, 3, 0, 2, 0, 0, 2.5], 1)
    assert highly_variable([one, two], n=1).tolist() == ["d"]
    assert set(highly_variable([one, two], n=3)) == {"d", "f", "i"}
    assert highly_variable([one, two], n=3).equals(highly_variable([one, two], n=9)[:3])


def test_a_slide_without_counts_of_a_gene_does_not_place_it() -> None:
    panel = Panel(list("abc"), [0, 1, 2], 0)
    panel.counts = panel.counts.multiply(panel.genes != "a").tocsr()
    assert highly_variable([panel], n=2).tolist() == ["c", "b"]
    with pytest.raises(SubsetError, match="have counts of 42"):
        highly_variable([panel], n=43)
    with pytest.raises(SubsetError, match="no slides"):
        highly_variable([])


def test_on_synthetic_slides(tiny_slides) -> None:
    slides = [ExpressionSlide(path) for path in tiny_slides]
    genes = all_genes(slides)
    chosen = highly_variable(slides, n=20)
    assert len(chosen) == 20
    assert chosen.isin(genes).all()
    assert not chosen.has_duplicates
    found = markers(slides)
    symbols = pd.concat([slide.symbols for slide in slides])
    wanted = {symbol for group in MARKERS.values() for symbol in group}
    assert set(symbols[symbols.index.isin(found)]) <= wanted
    assert found.isin(genes).all()


def test_markers_of_a_file(tmp_path: Path) -> None:
    panel = Panel(["ens1", "ens2", "ens3"], [0, 0, 0], 0)
    panel.symbols = pd.Series(["EPCAM", "CD3E", "CD3E"], index=panel.genes[:3])
    assert markers([panel]).tolist() == ["ens1", "ens2", "ens3"]
    path = tmp_path / "genes.txt"
    path.write_text("# T cells\nCD3E  # both ids\nens1\nOTHER\n\n")
    assert markers([panel], path).tolist() == ["ens2", "ens3", "ens1"]
    path.write_text("OTHER\n")
    with pytest.raises(SubsetError, match="none of its 1 genes"):
        markers([panel], path)
    with pytest.raises(SubsetError, match="cannot be read"):
        markers([panel], tmp_path / "missing.txt")


def test_markers_are_symbols_once_a_type() -> None:
    for symbols in MARKERS.values():
        assert len(set(symbols)) == len(symbols)
        assert all(symbol == symbol.upper() for symbol in symbols)
