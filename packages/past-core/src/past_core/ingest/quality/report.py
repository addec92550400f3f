"""The report of a store's quality control, as one HTML page or one picture."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.ingest.quality.cells import Quantity
from past_core.ingest.quality.figures import draw_histogram, draw_map, histogram_figure, map_figure
from past_core.ingest.quality.from_store import failed_by_reason, quantities_of
from past_core.ingest.store import SlideStore
from past_core.remote import Location

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".html", ".png")

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1a202c}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}img{max-width:100%;height:auto}"
    "table{border-collapse:collapse}th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "th:first-child,td:first-child{text-align:left}code{background:#f2f2f2;padding:0 .25rem}"
)
KEPT = (
    "Cells that fail are kept in the store with their reasons; training, evaluation and neighbour graphs "
    "leave them out. A cell with several reasons counts under each."
)


class QualityReportError(PastError, ValueError):
    """The report cannot be written as wanted."""


def check_report(path: Path) -> None:
    """Refuses a report's path before any work is done.

    Raises:
        QualityReportError: Another ending than .html or .png, or a folder.
    """
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        what = "is a folder" if path.is_dir() else f"ends in {path.suffix!r}"
        raise QualityReportError(f"the report {path} {what}; expected a file NAME.html or NAME.png")


def write_report(store: SlideStore | Location | str, path: Path) -> Path:
    """Writes the report of a store: counts of each reason, a map of the cells, and every tested number.

    An HTML report holds its pictures and needs nothing from elsewhere.

    Args:
        store: the slide store.
        path: what to write, .html or .png; a file that is there is replaced once the new one is complete.

    Raises:
        QualityReportError: Another ending than .html or .png, a folder, or it cannot be written.
        StoreError: The store is damaged.
    """
    check_report(path)
    store = store if isinstance(store, SlideStore) else SlideStore(store)
    quantities, failed = quantities_of(store), failed_by_reason(store)
    try:
        with replacing(path) as partial:
            if path.suffix.lower() == ".html":
                partial.write_text(_page(store, quantities, failed), encoding="utf-8")
            else:
                _picture(store, quantities, failed).savefig(partial, dpi=110, format="png")
    except OSError as error:
        if isinstance(error, PastError):
            raise
        raise QualityReportError(f"the report {path} cannot be written ({error})") from error
    return path


def reason_rows(
    quantities: Sequence[Quantity], failed: Mapping[str, np.ndarray], n_cells: int
) -> list[dict[str, Any]]:
    """One row a test that ran: cells that fail it, their share, cells that fail nothing else, its bounds."""
    number = np.zeros(n_cells, np.int64)
    for bad in failed.values():
        number += bad
    bounds = {quantity.reason: (quantity.low, quantity.high) for quantity in quantities}
    nobody = np.zeros(n_cells, bool)
    return [
        {
            "reason": reason,
            "cells": int(bad.sum()),
            "share": float(bad.mean()),
            "alone": int((bad & (number == 1)).sum()),
            "low": bounds.get(reason, (None, None))[0],
            "high": bounds.get(reason, (None, None))[1],
        }
        for reason in [*bounds, *(name for name in failed if name not in bounds)]
        for bad in [failed.get(reason, nobody)]
    ]


def _page(store: SlideStore, quantities: Sequence[Quantity], failed: Mapping[str, np.ndarray]) -> str:
    qc = store.manifest.get("qc", {})
    passed = int(store.passed.sum())
    table = _table(
        ("test", "cells that fail", "share", "fail it alone", "least", "largest"),
        (
            (
                row["reason"],
                f"{row['cells']:,}",
                f"{row['share']:.2%}",
                f"{row['alone']:,}",
                _bound(row["low"]),
                _bound(row["high"]),
            )
            for row in reason_rows(quantities, failed, store.n_cells)
        ),
    )
    parts = [
        f"<h1>Quality control: {escape(store.name)}</h1>",
        f"<p><b>{passed:,} of {store.n_cells:,} cells pass</b> ({passed / store.n_cells:.1%}).</p>",
        f"<p>{KEPT}</p>",
        "<h2>Reasons</h2>",
        table,
    ]
    if qc.get("skipped"):
        parts += ["<h2>Tests that could not run</h2>", _table(("test", "why"), qc["skipped"].items())]
    parts += ["<h2>Where</h2>", _inline(map_figure(store, failed), "Map of the cells over the H&E")]
    histograms = histogram_figure(quantities)
    if histograms is not None:
        parts += ["<h2>What was measured</h2>", _inline(histograms, "Histograms with their bounds (red)")]
    figures = [
        (f"{test}: {key}", _bound(value))
        for test, values in (qc.get("figures") or {}).items()
        for key, value in values.items()
    ]
    if figures:
        parts += ["<h2>Of the whole slide</h2>", _table(("figure", "value"), figures)]
    options = qc.get("options") or {}
    if options:
        words = " ".join(f"{key}={_bound(value)}" for key, value in options.items())
        parts += ["<h2>Options</h2>", f"<p><code>{escape(words)}</code></p>"]
    parts.append(f"<p>{escape(str(store.manifest.get('software', '')))}</p>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Quality control: {escape(store.name)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _inline(figure: "Figure", text: str) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _bound(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return (
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )


def _picture(store: SlideStore, quantities: Sequence[Quantity], failed: Mapping[str, np.ndarray]) -> "Figure":
    """Map, counts and histograms in one figure."""
    from matplotlib.figure import Figure

    measured = [quantity for quantity in quantities if quantity.measured is not None]
    rows = -(-len(measured) // 3)
    figure = Figure(figsize=(12, 8 + 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, 3, height_ratios=[8, *([2.6] * rows)])
    draw_map(figure.add_subplot(grid[0, :]), store, failed)
    for place, quantity in enumerate(measured):
        draw_histogram(figure.add_subplot(grid[1 + place // 3, place % 3]), quantity)
    passed = int(store.passed.sum())
    skipped = ", ".join(store.manifest.get("qc", {}).get("skipped") or {})
    figure.suptitle(
        f"{store.name}: {passed:,} of {store.n_cells:,} cells pass quality control"
        + (f"\ncould not run: {skipped}" if skipped else "")
    )
    return figure
