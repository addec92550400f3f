"""A comparison of clusters as files: tables, scores, pictures."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_core.atomic import replacing
from past_genex.clusters.comparison import ClusterComparison, Side
from past_genex.figures.clusters import cluster_maps, confusion, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNMATCHED = "#525252"
"""Colour of predicted clusters that correspond to no measured one."""


def write_comparison(
    comparison: ClusterComparison,
    folder: Path,
    *,
    cell_ids: np.ndarray,
    xy_um: np.ndarray,
    name: str,
    symbols: pd.Series | None = None,
    retrieved: np.ndarray | None = None,
    provenance: Mapping[str, object] | None = None,
    dpi: int = 200,
) -> list[str]:
    """Writes a folder, whole or not at all; one that is there is replaced.

    Args:
        comparison: the result.
        folder: where to.
        cell_ids: `(N,)`.
        xy_um: `(N, 2)` the cells' places in µm.
        name: of the slide, for headings.
        symbols: gene symbols by id, for the table of markers.
        retrieved: `(N,)` labels by retrieval.
        provenance: more for scores.json, such as the inputs.
        dpi: of the pictures.

    Returns:
        Names of the files.
    """
    with replacing(folder) as part:
        part.mkdir()
        cells(comparison, cell_ids, retrieved).to_csv(part / "clusters.csv", index=False)
        markers(comparison, symbols).to_csv(part / "markers.csv", index=False)
        if comparison.correspondence is not None:
            comparison.correspondence.table().to_csv(part / "correspondence.csv", index=False)
        text = json.dumps(scores(comparison) | dict(provenance or {}), indent=2, default=_plain)
        (part / "scores.json").write_text(text + "\n")
        for title, figure in pictures(comparison, xy_um, name=name).items():
            figure.savefig(part / f"{title}.png", dpi=dpi)
        return sorted(path.name for path in part.iterdir())


def cells(
    comparison: ClusterComparison, cell_ids: np.ndarray, retrieved: np.ndarray | None = None
) -> pd.DataFrame:
    """One row per cell: its clusters, annotation and transferred labels."""
    table = pd.DataFrame({"cell_id": cell_ids, "measured_cluster": comparison.measured.clustering.labels})
    if comparison.predicted is not None:
        table["predicted_cluster"] = comparison.predicted.clustering.labels
    if comparison.reference_name != "measured clusters":
        table["label"] = comparison.reference
    if comparison.transferred is not None:
        table["transferred_label"] = comparison.transferred
    if retrieved is not None:
        table["retrieved_label"] = retrieved
    return table


def markers(comparison: ClusterComparison, symbols: pd.Series | None = None) -> pd.DataFrame:
    """The markers of both sides."""
    parts = [comparison.measured.markers.assign(side="measured")]
    if comparison.predicted is not None:
        parts.append(comparison.predicted.markers.assign(side="predicted"))
    table = pd.concat(parts, ignore_index=True)
    symbol = table["gene"] if symbols is None else table["gene"].map(symbols).fillna(table["gene"])
    table.insert(table.columns.get_loc("gene") + 1, "symbol", symbol)
    return table[["side", *table.columns.drop("side")]]


def scores(comparison: ClusterComparison) -> dict[str, object]:
    """What scores.json holds."""
    sides = {"measured": comparison.measured, "predicted": comparison.predicted}
    best = []
    if comparison.correspondence is not None:
        table = comparison.correspondence.table()
        best = table[table["rank"] == 1].drop(columns="rank").to_dict(orient="records")
    return {
        "adjusted_rand_index": {k: None if np.isnan(v) else v for k, v in comparison.ari.items()},
        "reference": comparison.reference_name,
        "labels": {way: result.as_dict() for way, result in comparison.scores.items()},
        "best_matches": best,
        "clusters": {side: _side(value) for side, value in sides.items() if value is not None},
        "settings": dict(comparison.settings),
        "versions": {
            each: version(each) for each in ("past-genex", "scanpy", "igraph", "scikit-learn", "numpy")
        },
        "use": "research use only",
    }


def _side(side: Side) -> dict[str, object]:
    return {
        "number": side.clustering.n,
        "resolution": side.clustering.resolution,
        "cells": side.clustering.sizes.tolist(),
        "constant_genes": side.constant,
    }


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} in scores.json")


def pictures(comparison: ClusterComparison, xy_um: np.ndarray, *, name: str) -> "dict[str, Figure]":
    """Figures by name of their file: maps of clusters and types, confusions."""
    left, right, match = comparison.measured.clustering, comparison.predicted, comparison.correspondence
    hues = dict(zip(left.names, palette(left.n), strict=True))
    groups: dict[str, np.ndarray] = {"measured clusters": left.labels.astype(str)}
    colours = {"measured clusters": hues}
    figures = {}
    if right is not None and match is not None:
        best = match.best
        groups["predicted clusters\n(colour of the measured cluster they match)"] = (
            right.clustering.labels.astype(str)
        )
        colours[list(groups)[-1]] = {
            str(c): hues[str(best[c])] if best[c] >= 0 else UNMATCHED for c in range(right.clustering.n)
        }
        ari = comparison.ari["measured clusters, predicted clusters"]
        figures["correspondence"] = confusion(
            match.overlap, rows=left.names, columns=right.clustering.names, pcc=match.pcc, genes=match.genes,
            heading=f"{name}: measured and predicted clusters, adjusted Rand index {ari:.2f}",
            pcc_title="PCC over the union of top markers (number of genes)",
        )  # fmt: skip
    figures["clusters"] = cluster_maps(xy_um, groups, colours=colours, heading=name)
    if comparison.reference_name != "measured clusters":
        types = {comparison.reference_name: comparison.reference}
        if comparison.transferred is not None:
            types["transferred to predictions"] = comparison.transferred
        figures["types"] = cluster_maps(xy_um, types, heading=name)
    for way, result in comparison.scores.items():
        table = result.confusion
        figures[f"confusion_{way.replace(' ', '_')}"] = confusion(
            table.to_numpy(), rows=list(table.index), columns=[c or "none" for c in table.columns],
            row_title=comparison.reference_name, column_title=f"label from {way}",
            heading=f"{name}: macro F1 {result.macro_f1:.2f}",
        )  # fmt: skip
    return figures
