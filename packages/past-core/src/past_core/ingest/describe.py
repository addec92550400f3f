"""What is in a slide store, for people and for programs."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from past_core.ingest.store import SlideStore
from past_core.remote import Location, RemotePath


def describe_store(store: SlideStore) -> dict[str, Any]:
    """Describes a slide store in plain types, ready for JSON.

    Args:
        store: An open store; its table's counts and flags are read.
    """
    level = store.levels[0]
    passed = np.asarray(store.counts[store.passed].sum(axis=1)).ravel()
    genes = np.diff(store.counts.indptr)[store.passed]
    median = store.median_distance
    return {
        "kind": "slide store",
        "path": str(store.path),
        "bytes": _bytes(store.path),
        "name": store.name,
        "patient": store.manifest.get("patient"),
        "cancer_type": store.cancer_type,
        "assay": store.assay,
        "organism": store.organism,
        "modality": store.modality,
        "image": {
            "width": level.width,
            "height": level.height,
            "mpp": store.mpp,
            "levels": [[size.height, size.width] for size in store.levels],
        },
        "cells": store.n_cells,
        "passed": int(store.passed.sum()),
        "reasons": store.manifest["qc"]["reasons"],
        "genes": len(store.genes),
        "median_counts": float(np.median(passed)) if len(passed) else None,
        "median_genes": float(np.median(genes)) if len(genes) else None,
        "neighbors": store.neighbors.shape[1],
        "median_distance_um": None if np.isnan(median) else median,
        "blocks": len(store.blocks),
        "block_size": store.block_size,
        "registration": store.manifest.get("registration"),
        "report": store.manifest.get("report") or {},
        "sources": store.manifest.get("sources") or {},
        "software": store.manifest.get("software"),
    }


def store_table(description: dict[str, Any]) -> Table:
    """Lays a description out as a table of two columns for a terminal."""
    image, size = description["image"], description["bytes"]
    width_mm, height_mm = (image[side] * image["mpp"] / 1000 for side in ("width", "height"))
    failed = ", ".join(f"{count:,} {reason}" for reason, count in description["reasons"].items())
    table = Table(title=Text(description["name"]), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "Store": description["path"] + ("" if size is None else f" ({size / 2**20:,.1f} MiB)"),
        "Patient": description["patient"],
        "Cancer type": description["cancer_type"],
        "Assay": f"{description['assay']}, {description['organism']}, {description['modality']}",
        "H&E": f"{image['width']:,} x {image['height']:,} px at {image['mpp']:.4g} µm/px "
        f"({width_mm:.2f} x {height_mm:.2f} mm), {len(image['levels'])} levels",
        "Cells": f"{description['cells']:,}, of which {description['passed']:,} pass QC"
        + (f" (fail: {failed})" if failed else ""),
        "Genes": f"{description['genes']:,}",
        "Per cell": _per_cell(description),
        "Neighbours": _neighbors(description),
        "Blocks": f"{description['blocks']} of {description['block_size']:,} px",
        "Registration": _registration(description["registration"] or {}),
        "Sources": "\n".join(f"{name} {digest[:12]}" for name, digest in description["sources"].items()),
        "Made by": description["software"],
    }
    for key, value in rows.items():
        table.add_row(key, Text(str(value)) if value else "-")
    return table


def _registration(record: dict[str, Any]) -> str | None:
    verdict, reasons = record.get("verdict"), "; ".join(record.get("reasons") or ())
    if verdict is None:
        return record.get("method")
    return f"{record.get('method', '')}, {verdict}" + (f": {reasons}" if reasons else "")


def _bytes(path: Location) -> int | None:
    """Size on disk; unknown behind a URL, where it would take a request a file."""
    if isinstance(path, RemotePath):
        return None
    # os.walk keeps one folder's names at a time: a large store has tens of thousands of files.
    folders = ((Path(folder), names) for folder, _, names in os.walk(path))
    return sum((folder / name).stat().st_size for folder, names in folders for name in names)


def _per_cell(description: dict[str, Any]) -> str | None:
    if description["median_counts"] is None:
        return None
    return f"{description['median_counts']:g} counts, {description['median_genes']:g} genes (medians)"


def _neighbors(description: dict[str, Any]) -> str:
    median = description["median_distance_um"]
    return f"{description['neighbors']}" + (f", median {median:.1f} µm away" if median is not None else "")
