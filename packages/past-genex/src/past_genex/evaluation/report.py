"""Tables and files of an evaluation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from past_core.atomic import replacing
from past_genex.evaluation.comparison import differences, interval
from past_genex.evaluation.run import Evaluation
from past_genex.evaluation.scores import Scores, nanmean
from past_genex.metrics.compare import Interval

if TYPE_CHECKING:
    from rich.table import Table

MARKERS = (
    "EPCAM", "KRT5", "KRT7", "KRT8", "KRT14", "KRT17", "KRT19", "FOXA1", "GATA3", "ESR1", "PGR", "ERBB2",
    "MKI67", "ACTA2", "MYH11", "COL1A1", "PDGFRA", "PDGFRB", "PECAM1", "VWF", "CD3E", "CD4", "CD8A", "FOXP3",
    "MS4A1", "CD79A", "MZB1", "CD68", "CD163", "CD14", "KIT", "TPSAB1", "CPA3",
)  # fmt: skip
"""Symbols of genes that pathology and single-cell atlases tell cell types by."""

USE = "research use only"


def symbols_of(evaluation: Evaluation) -> pd.Series:
    """Symbol by gene id, over all slides."""
    symbols = pd.concat([slide.symbols for slide in evaluation.split.slides])
    return symbols[~symbols.index.duplicated()].astype(str)


def default_subsets(evaluation: Evaluation, genes: pd.Index) -> dict[str, pd.Index]:
    """Subsets of genes to report: "all", "hvg" and "markers"; those without a gene are left out.

    Highly variable genes are chosen as HEST-Bench does, see `hest.hest_genes`.
    """
    from past_genex.evaluation.hest import HestProtocolError, hest_genes

    symbols = symbols_of(evaluation).reindex(genes)
    subsets = {"all": genes, "markers": genes[symbols.isin(MARKERS).to_numpy()]}
    try:
        variable = hest_genes(evaluation.split.slides)
        subsets["hvg"] = genes[genes.isin(variable)]
    except HestProtocolError:
        pass  # slides of different panels may share no gene
    return {name: subset for name, subset in subsets.items() if len(subset)}


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
    r = []
    for t, p in zip(truth, prediction, strict=True):
        known = np.isfinite(t) & np.isfinite(p)
        if known.sum() >= 3 and np.ptp(t[known]) > 0 and np.ptp(p[known]) > 0:
            r.append(float(np.corrcoef(t[known], p[known])[0, 1]))
    return {
        "moran_r": float(np.mean(r)) if r else None,
        "moran_truth": float(nanmean(truth.ravel())),
        "moran_prediction": float(nanmean(prediction.ravel())),
    }


def report(
    evaluation: Evaluation,
    *,
    subsets: Mapping[str, pd.Index] | None = None,
    ceiling: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything about an evaluation as plain values.

    Args:
        evaluation: what came out.
        subsets: genes by name of the subset; by default `default_subsets`.
        ceiling: `(G,)` highest r that count noise allows, by gene of the scores.
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
        "excluded": dict(split.excluded),
        "skipped": dict(evaluation.skipped),
        "subsets": {},
    }
    if not evaluation.scores:
        return out
    genes = evaluation.scores[0].genes
    for name, subset in (default_subsets(evaluation, genes) if subsets is None else subsets).items():
        scores = [s.subset(subset) for s in evaluation.scores]
        intervals = [interval(s, seed=seed) for s in scores]
        entry: dict[str, Any] = {
            "genes": len(scores[0].genes),
            "systems": [summarise(s, i) for s, i in zip(scores, intervals, strict=True)],
            "differences": differences(scores, seed=seed).to_dict("records"),
        }
        if ceiling is not None:
            here = ceiling[genes.get_indexer(scores[0].genes)]
            entry["noise_ceiling"] = float(nanmean(here))
        out["subsets"][name] = entry
    return out


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


def tables(content: Mapping[str, Any]) -> "list[Table]":
    """What `report` gave, as tables for the terminal."""
    from rich.table import Table

    out = []
    leaks = " · LEAKS ON PURPOSE" if content["leaks_on_purpose"] else ""
    for name, entry in content["subsets"].items():
        ceiling = f" · noise ceiling {entry['noise_ceiling']:.3f}" if "noise_ceiling" in entry else ""
        over = entry["systems"][0]["interval_over"]
        title = f"{content['split']} ({content['setting']}{leaks}) · {name}: {entry['genes']} genes{ceiling}"
        table = Table(
            "system", "r", "95 % CI", "per slide", "sd types", "Spearman", "median R²", "Moran r", "genes",
            title=title, caption=f"{content['target']} · intervals over {over}",
        )  # fmt: skip
        for row in entry["systems"]:
            table.add_row(
                row["system"],
                digits(row["r"]),
                f"{digits(row['low'])} to {digits(row['high'])}",
                digits(row["r_per_slide"]),
                digits(row["sd_over_types"]),
                digits(row.get("spearman")),
                digits(row["r2"]),
                digits(row.get("moran_r")),
                f"{row['genes']}" + (f" ({row['constant']} constant)" if row["constant"] else ""),
            )
        out.append(table)
    if content["subsets"]:
        first = next(iter(content["subsets"].values()))
        patients = list(dict.fromkeys(p for row in first["systems"] for p in row["by_patient"]))
        table = Table("system", *patients, title=f"{content['split']}: r within slides, by patient")
        for row in first["systems"]:
            table.add_row(row["system"], *(digits(row["by_patient"].get(patient)) for patient in patients))
        out.append(table)
        if first["differences"]:
            table = Table(
                "systems", "difference of r", "95 % CI", "p genes (Holm)", "p slides (Holm)",
                title=f"{content['split']}: paired differences",
            )  # fmt: skip
            best = first["systems"][0]["system"]
            for d in (d for d in first["differences"] if best in (d["first"], d["second"])):
                table.add_row(
                    f"{d['first']} - {d['second']}",
                    digits(d["difference"]),
                    f"{digits(d['low'])} to {digits(d['high'])}",
                    f"{d['p_genes_holm']:.2g}",
                    f"{d['p_slides_holm']:.2g} ({d['n_slides']} slides)",
                )
            out.append(table)
    return out


def digits(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.3f}"


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
