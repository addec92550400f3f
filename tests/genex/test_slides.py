"""A slide as expression prediction sees it, and the scales of its targets."""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from past_core.ingest.store import SlideStore
from past_genex.data.slides import ExpressionDataError, ExpressionSlide, union_genes
from past_genex.data.targets import Target, TargetError


def with_counts(path: Path, counts: sparse.csr_matrix) -> ExpressionSlide:
    """The slide of a store whose counts are replaced."""
    store = SlideStore(path)
    store.__dict__["counts"] = counts  # the cached property's place
    return ExpressionSlide(store)


@pytest.mark.parametrize(("normalisation", "total"), [("median", None), ("10k", 1e4)])
def test_targets_are_scanpys(tiny_slides: Sequence[Path], normalisation, total) -> None:
    slide = ExpressionSlide(tiny_slides[0])
    reference = ad.AnnData(slide.counts.astype(np.float64))
    sc.pp.normalize_total(reference, target_sum=total or float(np.median(slide.totals)))
    sc.pp.log1p(reference)
    np.testing.assert_allclose(slide.expression(Target(normalisation)), reference.X.toarray(), atol=1e-10)


def test_raw_counts_stay_counts(tiny_slides: Sequence[Path]) -> None:
    slide = ExpressionSlide(tiny_slides[0])
    np.testing.assert_array_equal(slide.expression(Target("none")), np.log1p(slide.counts.toarray()))


def test_genes_that_a_slide_does_not_measure_are_missing(tiny_slides: Sequence[Path]) -> None:
    slides = [ExpressionSlide(path) for path in tiny_slides]
    genes = union_genes(slides)
    assert len(genes) > len(slides[0].genes)
    assert genes.is_unique
    rows = np.array([5, 2, 9])
    whole = slides[0].expression(Target())
    part = slides[0].expression(Target(), genes, rows)
    measured = genes.isin(slides[0].genes)
    assert np.isnan(part[:, ~measured]).all()
    np.testing.assert_array_equal(
        part[:, measured], whole[rows][:, slides[0].genes.get_indexer(genes[measured])]
    )


def test_cells_without_a_count_are_left_out_and_counted(tiny_slides, caplog) -> None:
    store = SlideStore(tiny_slides[0])
    counts = store.counts.tolil()
    first = np.flatnonzero(store.passed)[:3]
    counts[first] = 0
    slide = with_counts(tiny_slides[0], counts.tocsr())
    assert slide.empty == 3
    assert not np.isin(first, slide.rows).any()
    assert "3 cells without a count" in caplog.text
    assert np.isfinite(slide.expression(Target())).all()
    with pytest.raises(ExpressionDataError, match="none of its"):
        with_counts(tiny_slides[0], sparse.csr_matrix(counts.shape, dtype=np.int32))


def test_unknown_annotation_and_normalisation_name_what_there_is(tiny_slides: Sequence[Path]) -> None:
    with pytest.raises(ExpressionDataError, match=r"no column 'celltype'; it has .*cell_id"):
        ExpressionSlide(tiny_slides[0]).annotation("celltype")
    with pytest.raises(TargetError, match="'cpm'; expected one of median, 10k, none"):
        Target("cpm")
    with pytest.raises(TargetError, match="1 of 2 cells have no count"):
        Target().scale(np.array([0, 3]))
