"""HEST-Bench's protocol against the same written out with scikit-learn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from past_genex.data.slides import ExpressionSlide
from past_genex.data.splits import Split, intra_patient, leave_patients_out
from past_genex.evaluation.hest import HestProtocolError, hest_genes, hest_protocol


@pytest.fixture(scope="module")
def slides(tiny_slides: Sequence[Path]) -> list[ExpressionSlide]:
    return [ExpressionSlide(path) for path in tiny_slides]


@pytest.fixture(scope="module")
def split(slides: list[ExpressionSlide]) -> Split:
    return leave_patients_out(slides)


def made_features(slides: list[ExpressionSlide], d: int = 300) -> list[np.ndarray]:
    """Features with something of the counts in them."""
    stream = np.random.default_rng(0)
    mix = stream.standard_normal((20, d))
    return [
        (np.log1p(s.counts[:, :20].toarray()) @ mix + stream.standard_normal((s.n_cells, d))).astype("f4")
        for s in slides
    ]


def test_the_protocol_is_scikit_learns(slides: list[ExpressionSlide], split: Split) -> None:
    features = made_features(slides)
    result = hest_protocol("made", split, features.__getitem__)
    genes = hest_genes(slides)
    assert len(genes) == 50
    for row, fold in enumerate(split.folds):
        (held,) = fold.test
        train = [n for n in range(len(slides)) if n != held]
        x = np.concatenate([features[n] for n in train])
        y = np.log1p(
            np.concatenate(
                [slides[n].counts[:, slides[n].genes.get_indexer(genes)].toarray() for n in train]
            ).astype(float)
        )
        scaler, pca = StandardScaler(), PCA(256, random_state=1)
        # As a pipeline does: `transform` differs by rounding, which the solver's loose tolerance magnifies.
        reduced = pca.fit_transform(scaler.fit_transform(x)).astype("f4")
        options = {"solver": "lsqr", "fit_intercept": False, "max_iter": 1000, "random_state": 1}
        ridge = Ridge(alpha=100 / (256 * 50), **options).fit(reduced, y)
        predicted = ridge.predict(pca.transform(scaler.transform(features[held])).astype("f4"))
        column = slides[held].genes.get_indexer(genes)
        truth = np.log1p(slides[held].counts[:, column].toarray().astype(float))
        r = [pearsonr(truth[:, g], predicted[:, g]).statistic for g in range(50)]
        np.testing.assert_allclose(result.r[row], r, atol=1e-6)
    assert result.dimensions.tolist() == [256, 256, 256]
    assert result.mean == pytest.approx(np.mean([np.nanmean(r) for r in result.r]))
    assert result.sd == pytest.approx(np.std([np.nanmean(r) for r in result.r]))


def test_genes_are_in_a_tenth_of_the_cells_of_every_slide(slides: list[ExpressionSlide]) -> None:
    for slide in slides:
        counts = slide.counts[:, slide.genes.get_indexer(hest_genes(slides))]
        assert ((counts.toarray() > 0).sum(axis=0) >= 0.1 * slide.n_cells).all()


def test_what_the_protocol_cannot_do_is_said(slides: list[ExpressionSlide], split: Split) -> None:
    features = made_features(slides, 5)
    small = hest_protocol("made", split, features.__getitem__)
    assert small.dimensions.tolist() == [5, 5, 5]
    with pytest.raises(HestProtocolError, match="does not hold out patients"):
        hest_protocol("made", intra_patient(slides, rim_um=10.0, folds=2), features.__getitem__)
    with pytest.raises(HestProtocolError, match="does not measure"):
        hest_protocol("made", split, features.__getitem__, genes=pd.Index(["NOT-A-GENE"]))
