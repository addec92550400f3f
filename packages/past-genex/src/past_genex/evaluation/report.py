"""Everything about an evaluation as plain values, and its files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from past_core.atomic import replacing
from past_genex.evaluation.comparison import RESAMPLES, differences, interval
from past_genex.evaluation.run import Evaluation
from past_genex.evaluation.scores import Scores, nanmean
from past_genex.evaluation.subsets import Subset, default_subsets
from past_genex.metrics.compare import Interval
from past_genex.metrics.spatial import autocorrelation_recovery

USE = "research use only"


def symbols_of(evaluation: Evaluation) -> pd.Series:
    """Symbol by gene id, over all slides."""
    symbols = pd.concat([slide.symbols for slide in evaluation.split.slides])
    return symbols[~symbols.index.duplicated()].astype(str)


def summarise(scores: Scores, mean: Interval) -> dict[str, Any]:
    """One row: every figure of a system over its genes."""
    pooled = scores.pooled()
    types = scores.by("cancer_type")
    table, moments = scores.grouped(["fold"])
    row: dict[str, Any] = {
        "system": scores.system,
        "genes": int(np.isfinite(pooled).sum()),
        "constant": int(np.isnan(pooled).sum()),
        "unpredicted": scores.unpredicted,
        "r": mean.estimate,
        "low": mean.low,
        "high": mean.high,
        "interval_over": mean.resampled,
        "r_per_slide": float(nanmean(scores.per_slide())),
        "sd_over_types": float(types.std(ddof=1)) if len(types) > 1 else None,
        "r2": float(np.nanmedian(moments.r2)) if np.isfinite(moments.r2).any() else None,
        "by_type": {str(key): float(value) for key, value in types.items()},
        "by_patient": {str(key): float(value) for key, value in scores.by("patient").items()},
        "by_fold": {
            str(name): float(value) for name, value in zip(table["fold"], nanmean(moments.r.T), strict=True)
        },
    }
    if scores.maps:
        row["spearman"] = float(nanmean(nanmean(scores.maps["spearman"])))
        row |= moran_recovery(scores.maps["moran_truth"], scores.maps["moran_prediction"])
    return row


def moran_recovery(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float | None]:
    """How well the genes' spatial autocorrelation is recovered, within slides.

    Args:
        truth: `(S, G)` Moran's I of the measured expression.
        prediction: `(S, G)` of the predicted.

    Returns:
        "moran_r", Pearson's r over genes (mean over slides with at least three genes), and "moran_truth" and
        "moran_prediction", the mean of each.
    """
    found = [autocorrelation_recovery(t, p).correlation for t, p in zip(truth, prediction, strict=True)]
    return {
        "moran_r": float(nanmean(np.array(found))),
        "moran_truth": float(nanmean(truth.ravel())),
        "moran_prediction": float(nanmean(prediction.ravel())),
    }


def report(
    evaluation: Evaluation,
    *,
    subsets: Mapping[str, pd.Index | Subset] | None = None,
    ceiling: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything about an evaluation as plain values.

    Args:
        evaluation: what came out.
        subsets: genes by name of the subset; by default `default_subsets`.
        ceiling: `(G,)` highest r within a slide that count noise allows, by gene of the scores; NaN for genes
            without one. A system's share of it is its mean r within slides over the mean ceiling, of the same
            genes.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    split = evaluation.split
    out: dict[str, Any] = {
        "split": split.name,
        "setting": split.setting,
        "leaks_on_purpose": split.setting == "random",
        "target": evaluation.target.name,
        "use": USE,
        "description": split.describe(),
        "patients": {slide.patient: slide.cancer_type for slide in split.slides},
        "excluded": dict(split.excluded),
        "skipped": dict(evaluation.skipped),
        "subsets": {},
    }
    if not evaluation.scores:
        return out
    genes = evaluation.scores[0].genes
    for name, subset in (default_subsets(split, genes) if subsets is None else subsets).items():
        subset = subset if isinstance(subset, Subset) else Subset(subset, "given")
        scores = [s.subset(subset.genes) for s in evaluation.scores]
        intervals = [interval(s, resamples=resamples, seed=seed) for s in scores]
        entry: dict[str, Any] = {
            "genes": len(scores[0].genes),
            "chosen": subset.chosen,
            "map_genes": _map_genes(scores[0]),
            "systems": [summarise(s, i) for s, i in zip(scores, intervals, strict=True)],
            "differences": differences(scores, resamples=resamples, seed=seed).to_dict("records"),
        }
        if ceiling is not None:
            entry |= _against_ceiling(entry["systems"], scores, ceiling[genes.get_indexer(scores[0].genes)])
        out["subsets"][name] = entry
    return out


def _map_genes(scores: Scores) -> int:
    """Genes with a Spearman correlation on some slide."""
    return int(np.isfinite(scores.maps["spearman"]).any(axis=0).sum()) if scores.maps else 0


def _against_ceiling(rows: list[dict[str, Any]], scores: list[Scores], ceiling: np.ndarray) -> dict[str, Any]:
    """The mean ceiling, its genes, and each row's share of it."""
    known = np.isfinite(ceiling)
    for row, each in zip(rows, scores, strict=True):
        r = each.per_slide()
        both = known & np.isfinite(r)
        row["share_of_ceiling"] = float(r[both].mean() / ceiling[both].mean()) if both.any() else None
    return {
        "noise_ceiling": float(ceiling[known].mean()) if known.any() else None,
        "noise_ceiling_genes": int(known.sum()),
    }


def gene_table(evaluation: Evaluation, ceiling: np.ndarray | None = None) -> pd.DataFrame:
    """One row a gene: r pooled and per slide, and R², of every system."""
    genes = evaluation.scores[0].genes
    columns: dict[str, Any] = {"symbol": symbols_of(evaluation).reindex(genes).to_numpy()}
    if ceiling is not None:
        columns["noise_ceiling"] = ceiling
    for scores in evaluation.scores:
        columns[f"r {scores.system}"] = scores.pooled()
        columns[f"r per slide {scores.system}"] = scores.per_slide()
        columns[f"R2 {scores.system}"] = nanmean(scores.grouped(["fold"])[1].r2)
    return pd.DataFrame(columns, index=genes.rename("gene"))


def digits(value: float | None) -> str:
    """Three digits, or a dash."""
    # Zero is added for -0.0.
    return "-" if value is None or not np.isfinite(value) else f"{round(value, 3) + 0.0:.3f}"


def write_json(content: Mapping[str, Any] | Sequence[Any], path: Path) -> None:
    """Writes plain values, whole or not at all; NaN and infinity become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
