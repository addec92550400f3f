"""HEST-Bench's protocol, so that figures stand beside its leaderboard.

Jaume et al., "HEST-1k: a dataset for spatial transcriptomics and histology image analysis", NeurIPS 2024; as
its published code has it:

- Genes: those with a count in at least 10 % of the cells (spots) of every slide; on log1p of the raw counts
  of all slides together, the 50 most variable by scanpy's dispersions. Test slides take part in this choice.
- Target: log1p of raw counts, without any normalisation to a total.
- Features: `StandardScaler`, then PCA to 256 (random state 1), both fitted on the fold's training cells, cast
  to float32. Folds with fewer than 256 training cells, or encoders with fewer dimensions, keep what there
  is.
- Ridge with the solver lsqr, no intercept, alpha = 100 / (dimensions x genes), at most 1,000 iterations. The
  targets are not centred.
- Folds hold out patients: here each in turn. Pearson's r of each gene over all test cells of the fold, mean
  over genes, then mean and population standard deviation over folds.

One thing differs: a gene without variation in a fold's test cells is left out of its mean, and counted,
where the published code's mean would be NaN. The field that an encoder sees is its own; HEST's patches are
112 µm at 0.5 µm/px, as UNI's here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from past_core.errors import PastError
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target
from past_genex.metrics.pairs import PairMoments

if TYPE_CHECKING:
    from past_genex.data.splits import Split

GENES = 50
DIMENSIONS = 256
MIN_SHARE = 0.10
SEED = 1
TARGET = Target("none")


class HestProtocolError(PastError, ValueError):
    """Slides on which the protocol cannot run."""


@dataclass(frozen=True)
class HestResult:
    """What the protocol gives for one encoder.

    Attributes:
        system: the encoder.
        genes: the genes.
        folds: names of the folds.
        r: `(F, G)` Pearson's r, NaN where the gene is constant in the fold's test cells.
        dimensions: `(F,)` principal components that were kept.
        n: `(F, 2)` training and test cells.
    """

    system: str
    genes: pd.Index
    folds: tuple[str, ...]
    r: np.ndarray
    dimensions: np.ndarray
    n: np.ndarray

    @property
    def per_fold(self) -> np.ndarray:
        """`(F,)` mean over the genes that vary."""
        return np.nanmean(self.r, axis=1)

    @property
    def mean(self) -> float:
        """Mean over folds: the leaderboard's figure."""
        return float(self.per_fold.mean())

    @property
    def sd(self) -> float:
        """Population standard deviation over folds, as the leaderboard's."""
        return float(self.per_fold.std())

    @property
    def constant(self) -> int:
        """Pairs of fold and gene that were left out."""
        return int(np.isnan(self.r).sum())


def hest_genes(slides: Sequence[ExpressionSlide], *, k: int = GENES) -> pd.Index:
    """The protocol's genes, sorted by id.

    Raises:
        HestProtocolError: fewer than two genes reach 10 % of the cells of every slide.
    """
    import scanpy as sc
    from anndata import AnnData

    common: np.ndarray | None = None
    for slide in slides:
        cells = np.asarray((slide.counts > 0).sum(axis=0)).ravel()
        frequent = slide.genes[cells >= np.ceil(MIN_SHARE * slide.n_cells)].to_numpy(str)
        common = np.unique(frequent) if common is None else np.intersect1d(common, frequent)
    if common is None or len(common) < 2:
        found = 0 if common is None else len(common)
        raise HestProtocolError(
            f"{found} genes have counts in {MIN_SHARE:.0%} of the cells of each of {len(slides)} slides; the "
            "protocol needs at least two: give slides of one panel, or name genes (--genes)"
        )
    if len(common) <= k:
        return pd.Index(common)
    stacked = sparse.vstack([slide.counts[:, slide.genes.get_indexer(common)] for slide in slides])
    table = AnnData(stacked.tocsr().astype(np.float32), var=pd.DataFrame(index=common))
    table.obs_names_make_unique()
    sc.pp.log1p(table)
    sc.pp.highly_variable_genes(table, n_top_genes=k)
    return table.var_names[table.var["highly_variable"]][:k]


def hest_predict(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, int]:
    """The protocol's regression of one fold.

    Args:
        x_train: `(n, d)` features of the training cells.
        y_train: `(n, G)` targets.
        x_test: `(m, d)` features of the test cells.

    Returns:
        `(m, G)` predictions, and how many principal components were kept.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dimensions = min(DIMENSIONS, *x_train.shape)
    reduce = make_pipeline(StandardScaler(), PCA(n_components=dimensions, random_state=SEED))
    train = reduce.fit_transform(x_train).astype(np.float32)
    test = reduce.transform(x_test).astype(np.float32)
    alpha = 100 / (dimensions * y_train.shape[1])
    ridge = Ridge(alpha=alpha, solver="lsqr", fit_intercept=False, max_iter=1000, random_state=SEED)
    return ridge.fit(train, y_train).predict(test), dimensions


def hest_protocol(
    name: str,
    split: "Split",
    features: Callable[[int], np.ndarray],
    *,
    genes: pd.Index | None = None,
) -> HestResult:
    """Runs the protocol for one encoder.

    Args:
        name: of the encoder.
        split: holds out patients, see `leave_patients_out`.
        features: gives `(N, d)` features of a slide by its number.
        genes: other genes than the protocol's own.

    Raises:
        HestProtocolError: a split that does not hold out patients, or genes that not every slide measures.
    """
    if not split.leakage().clean or split.setting in ("intra", "random"):
        raise HestProtocolError(
            f"split {split.name} does not hold out patients; the protocol needs leave_patients_out"
        )
    genes = hest_genes(split.slides) if genes is None else genes
    for slide in split.slides:
        missing = genes[~genes.isin(slide.genes)]
        if len(missing):
            raise HestProtocolError(
                f"slide {slide.name} does not measure {len(missing)} of the {len(genes)} genes, such as "
                f"{missing[0]}; the protocol needs genes that every slide measures"
            )
    rows, dimensions, sizes = [], [], []
    for fold in split.folds:
        sides = []
        for parts in (fold.train, fold.test):
            cells = {number: split.regions[number].cells(parts[number]) for number in sorted(parts)}
            sides.append(np.concatenate([features(number)[mask] for number, mask in cells.items()]))
            sides.append(
                np.concatenate(
                    [split.slides[i].expression(TARGET, genes, np.flatnonzero(m)) for i, m in cells.items()]
                )
            )
        x_train, y_train, x_test, y_test = sides
        predicted, kept = hest_predict(x_train, y_train, x_test)
        rows.append(PairMoments.of(predicted, y_test).r)
        dimensions.append(kept)
        sizes.append((len(x_train), len(x_test)))
    return HestResult(
        name,
        genes,
        tuple(fold.name for fold in split.folds),
        np.array(rows),
        np.array(dimensions),
        np.array(sizes),
    )
