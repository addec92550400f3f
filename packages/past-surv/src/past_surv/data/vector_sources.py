"""The three sources of a patient's vector: predicted expression, the slides' joint space, bulk RNA."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from past_surv.data.bags import BagFolder, slide_name
from past_surv.data.cohort import Cohort
from past_surv.data.predictions import PredictedSlide, find_predictions, read_predicted
from past_surv.data.vector_files import VectorError, patient_table

if TYPE_CHECKING:
    from past_core.frozen_cell import FrozenCellEncoder

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of patients done, and of all."""

Scale = Literal["log2p1", "log1p", "linear", "zscore"]
"""Of a table's RNA. `zscore` (as in MCAT's tables): deviations from the cohort's mean."""

LEAST = 0.5
"""What is predicted below half a count is none, as measured counts are whole."""
CELLS = 2000
"""Most cells of a patient that are encoded: their mean is then known to a fortieth of the cells' spread."""


def expression_vectors(
    cohort: Cohort,
    predictions: str | Path | Mapping[str, Path],
    encoder: "FrozenCellEncoder",
    *,
    cells: int | None = CELLS,
    least: float = LEAST,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predicted expression → counts → rank tokens → cell encoder → mean over the patient's cells.

    The neighbourhood of a cell is that of the predicted slide.

    Args:
        cohort: the patients.
        predictions: what `past predict` wrote: a folder or sheet as `find_predictions` takes it, or stores by
            slide id.
        encoder: the cell encoder.
        cells: most cells of a patient, drawn at random, evenly over its slides' cells; all without.
        least: predicted counts below are none, see `PredictedSlide.counts`.
        seed: of the draw.
        batch_size: cells at a time.
        progress: called after every patient.

    Returns:
        See `patient_table`; patients without a prediction are absent.

    Raises:
        VectorError: no prediction is of this cohort, or a patient has no cell with a gene the encoder knows.
        ExpressionError, ExpressionNotFoundError, VocabularyError: see `read_predicted` and the encoder.
    """
    stores = predictions if isinstance(predictions, Mapping) else find_predictions(predictions)
    mine = _by_case(cohort, stores, "predictions")
    vectors, counts, trained = {}, {}, []
    for number, (case, paths) in enumerate(mine.items(), start=1):
        slides = [read_predicted(path) for path in paths]
        trained += [slide.slide for slide in slides if slide.manifest.get("training_slide")]
        rows = _draw([slide.n_cells for slide in slides], cells, seed)
        made = [
            _encode_cells(slide, chosen, encoder, least, batch_size)
            for slide, chosen in zip(slides, rows, strict=True)
            if len(chosen)
        ]
        values = np.concatenate(made)
        known = np.isfinite(values).all(axis=1)
        if not known.any():
            raise VectorError(
                f"case {case}: none of {len(values)} cells is predicted to express a gene that the encoder "
                f"knows with at least {least:g} counts ({', '.join(str(p) for p in paths)}); lower --least"
            )
        vectors[case], counts[case] = values[known].mean(axis=0, dtype=np.float64), int(known.sum())
        if progress is not None:
            progress(number, len(mine))
    if trained:
        logger.warning(
            "%d slides trained the probe that predicts them, %s among them: their vectors are better than "
            "new patients' would be", len(trained), trained[0],
        )  # fmt: skip
    settings = {"least": least, "cells": cells, "seed": seed, "trained_slides": trained}
    return _table(cohort, vectors, counts, {"source": "expression", **_made_by(encoder), **settings})


def joint_vectors(cohort: Cohort, bags: BagFolder, *, progress: Progress | None = None) -> pd.DataFrame:
    """Image encoder → projection into the space shared with cells → mean over the patient's patches.

    Args:
        cohort: the patients.
        bags: of the slides' patches in the joint space, as `past bags --space joint` makes them.
        progress: called after every patient.

    Returns:
        See `patient_table`; patients without a bag are absent.

    Raises:
        VectorError: bags of another space, or none of this cohort.
        BagError: see `BagFolder.find`.
    """
    vectors, counts, made = {}, {}, None
    for number, case in enumerate(map(str, cohort.cases), start=1):
        found = [bag for bag in map(bags.find, cohort.slides[case]) if bag is not None]
        for bag in found:
            if bag.manifest.get("space") != "joint":
                raise VectorError(
                    f"{bag.path}: patches of the space {bag.manifest.get('space', 'unknown')!r}; expected "
                    "those of `past bags --space joint` with a checkpoint of PAST"
                )
            made = bag.manifest
        if found:
            total = sum(bag.features().sum(axis=0, dtype=np.float64) for bag in found)
            counts[case] = sum(bag.patches for bag in found)
            vectors[case] = total / counts[case]
        if progress is not None:
            progress(number, len(cohort))
    if made is None:
        first = next((slide for slides in cohort.slides.values() for slide in slides), "no slide")
        raise VectorError(
            f"{cohort.name}: none of {len(bags)} bags in {bags.folder} is of its slides; they are named "
            f"{bags.slides[0]!r}, the cohort's {first!r}"
        )
    facts = {name: made.get(name) for name in ("encoder", "fingerprint", "space", "patch_um")}
    facts |= {"patches": made.get("kind"), "demo": bool(made.get("demo", False))}
    return _table(cohort, vectors, counts, {"source": "joint", **facts})


def bulk_vectors(
    cohort: Cohort,
    encoder: "FrozenCellEncoder",
    *,
    means: np.ndarray | None = None,
    scale: Scale = "log2p1",
    ids: Mapping[str, str] | None = None,
    batch_size: int = 64,
) -> pd.DataFrame:
    """The patient's RNA as the counts of one cell without neighbours → rank tokens → cell encoder.

    Args:
        cohort: the patients, with `SYMBOL_rnaseq`.
        encoder: the cell encoder.
        means: `(n_genes,)` non-zero means by which the encoder's tokens are ranked
            (`PastCheckpoint.gene_means`); needed for z-scores, which are multiplied by them, so that genes
            rank by how far above the cohort's mean they lie, and those at or below it count as none.
        scale: of the table's RNA.
        ids: Ensembl id by symbol; those of the human genes without.
        batch_size: patients at a time.

    Returns:
        See `patient_table`; patients without RNA are absent.

    Raises:
        VectorError: no RNA, no symbol whose id is known, negative values, or z-scores without means.
        VocabularyError: the encoder knows none of the genes.
    """
    from scipy import sparse

    if scale not in get_args(Scale):
        raise VectorError(f"scale {scale!r}; expected {', '.join(get_args(Scale))}")
    columns = [name for name in cohort.omics if name.endswith("_rnaseq")]
    if not columns:
        raise VectorError(
            f"{cohort.name}: no SYMBOL_rnaseq among {cohort.omics.shape[1]} columns of omics; without RNA "
            "take the source 'expression' or 'joint', which read slides"
        )
    symbols = [name.removesuffix("_rnaseq") for name in columns]
    table = _ids(symbols, ids)
    found_ids = [table.get(symbol) for symbol in symbols]
    known = [k for k, gene in enumerate(found_ids) if gene is not None]
    if not known:
        raise VectorError(f"{cohort.name}: no Ensembl id is known for any of {len(symbols)} symbols of RNA")
    rna = cohort.omics[[columns[k] for k in known]]
    rna = rna[rna.notna().any(axis=1)].fillna(0)
    genes = [gene for gene in found_ids if gene is not None]
    counts = sparse.csr_matrix(_counts(cohort, rna, genes, encoder, scale, means))
    values = encoder(counts, genes, batch_size=batch_size, source=f"the RNA of {cohort.name}").numpy()
    found = np.isfinite(values).all(axis=1)
    vectors = dict(zip(rna.index[found], values[found], strict=True))
    settings = {"scale": scale, "genes": len(genes), "symbols_without_id": len(symbols) - len(genes)}
    return _table(
        cohort, vectors, dict.fromkeys(vectors, 1), {"source": "bulk", **_made_by(encoder), **settings}
    )


def _by_case(cohort: Cohort, files: Mapping[str, Path], what: str) -> dict[str, list[Path]]:
    """Files of each case that has any, by slide id or by `CASE/name`, in the cohort's order."""
    by_slide = {slide_name(name): Path(path) for name, path in files.items()}
    by_case = defaultdict(list)
    for name, path in files.items():
        if "/" in name:
            by_case[name.split("/")[0]].append(Path(path))
    mine = {}
    for case in cohort.cases:
        wanted = [slide_name(slide) for slide in cohort.slides[case]]
        paths = [by_slide[slide] for slide in wanted if slide in by_slide] + by_case.get(case, [])
        if paths:
            mine[str(case)] = paths
    if not mine:
        first = next((slide for slides in cohort.slides.values() for slide in slides), "no slide")
        raise VectorError(
            f"{cohort.name}: none of {len(files)} {what} is of its slides; they are named "
            f"{next(iter(files), 'nothing')!r}, the cohort's {first!r}"
        )
    return mine


def _draw(sizes: Sequence[int], most: int | None, seed: int) -> list[np.ndarray]:
    """Rows of each slide, ascending; all where there are no more than wanted."""
    total = sum(sizes)
    if most is not None and most < 1:
        raise VectorError(f"cells is {most}; expected at least 1, or None for all")
    if most is None or total <= most:
        return [np.arange(size) for size in sizes]
    drawn = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    starts = np.cumsum([0, *sizes])
    return [drawn[(drawn >= a) & (drawn < b)] - a for a, b in pairwise(starts)]


def _encode_cells(
    slide: PredictedSlide, rows: np.ndarray, encoder: "FrozenCellEncoder", least: float, batch_size: int
) -> np.ndarray:
    """`(len(rows), D)`, NaN for cells without a gene; reads only these cells and their neighbours."""
    from past_core.frozen_cell import Neighborhood

    near = Neighborhood.from_coordinates(slide.xy_um)
    around = near.index[rows]
    needed = np.unique(np.concatenate([rows, around[around >= 0]]))
    place = np.full(slide.n_cells, -1)
    place[needed] = np.arange(len(needed))
    local = np.where(near.index[needed] >= 0, place[near.index[needed]], -1)
    return encoder(
        slide.counts(needed, least=least),
        list(slide.genes),
        neighborhood=Neighborhood(local, near.distance[needed]),
        rows=place[rows],
        batch_size=batch_size,
        source=str(slide.path),
    ).numpy()


def _ids(symbols: Sequence[str], ids: Mapping[str, str] | None) -> Mapping[str, str]:
    """Ensembl ids of human symbols: as given, else of the panel and of the tables of `past-core[ingest]`."""
    if ids is not None:
        return ids
    from past_core.ingest.orthologs import GeneTableError, symbols_to_ensembl
    from past_core.synthetic.panel import all_genes

    panel = all_genes()
    known = dict(zip(panel["symbol"], panel["id"], strict=True))
    rest = [symbol for symbol in symbols if symbol not in known]
    try:
        found = symbols_to_ensembl(rest, "human") if rest else []
    except GeneTableError as error:
        logger.warning("%d of %d symbols have no Ensembl id: %s", len(rest), len(symbols), error)
        found = [None] * len(rest)
    return known | {symbol: gene for symbol, gene in zip(rest, found, strict=True) if gene is not None}


def _counts(
    cohort: Cohort,
    rna: pd.DataFrame,
    genes: Sequence[str],
    encoder: "FrozenCellEncoder",
    scale: Scale,
    means: np.ndarray | None,
) -> np.ndarray:
    """`(patients, genes)` of what ranks as counts do."""
    values = rna.to_numpy(np.float64)
    if scale == "zscore":
        if means is None:
            raise VectorError("z-scores are ranked by the encoder's gene means; give means=")
        index = encoder.vocabulary.lookup(list(genes))
        per_gene = np.where(index >= 0, np.asarray(means, np.float64)[index], 0.0)
        return np.maximum(values, 0) * np.nan_to_num(per_gene)
    if (values < 0).any():
        row, column = np.argwhere(values < 0)[0]
        raise VectorError(
            f"{cohort.name}: {rna.columns[column]} of case {rna.index[row]} is {values[row, column]:.4g}; on "
            f"the scale {scale!r} nothing is negative. Are these z-scores? then the scale is 'zscore'"
        )
    inverse: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "log2p1": lambda x: np.exp2(x) - 1,
        "log1p": np.expm1,
        "linear": lambda x: x,
    }
    with np.errstate(over="ignore"):
        made = inverse[scale](values)
    if not np.isfinite(made).all():
        raise VectorError(f"{cohort.name}: RNA of up to {values.max():.4g} is not on the scale {scale!r}")
    return made


def _made_by(encoder: "FrozenCellEncoder") -> dict[str, object]:
    return {
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "space": encoder.space,
        "vocabulary": encoder.vocabulary.fingerprint,
        "demo": encoder.demo,
    }


def _table(
    cohort: Cohort, vectors: Mapping[str, np.ndarray], counts: Mapping[str, int], facts: Mapping[str, object]
) -> pd.DataFrame:
    """The table; who is absent is logged and noted."""
    absent = [str(case) for case in cohort.cases if case not in vectors]
    if absent:
        logger.warning(
            "%s: %d of %d patients have no vector: %s",
            cohort.name, len(absent), len(cohort), ", ".join(absent[:8]),
        )  # fmt: skip
    return patient_table(vectors, counts, {"cohort": cohort.name, "absent": absent, **facts})
