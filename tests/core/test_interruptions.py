"""Ingest, embed and export, interrupted in every way: absent or whole, and the rerun finishes."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from made_bundles import made_bundle
from made_models import made_checkpoint
from made_slides import made_slide

from made_faults import MOMENTS, Case, Trial, Verbs
from past_core.checkpoint import save_checkpoint
from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store

MODULES = (
    "spatialdata",
    "past_core.ingest.write",
    "past_core.ingest.xenium",
    "past_core.ingest.outlines",
    "past_core.ingest.describe",
    "past_core.embed",
    "past_core.encoders",
)


def slide_content(out: Path) -> dict | None:
    if not (out / "s.zarr").exists():
        return None
    store = SlideStore(out / "s.zarr")
    found = {f"level {n}": store.read(n, 0, 0, s.height, s.width) for n, s in enumerate(store.levels)}
    found |= {"counts": store.counts.toarray(), "xy": store.centroids, "obs": store.obs.to_csv()}
    return found | {"neighbours": store.neighbors, "manifest": json.dumps(store.manifest, sort_keys=True)}


def embed_content(out: Path) -> dict | None:
    if not (out / "e.h5ad").exists():
        return None
    table = ad.read_h5ad(out / "e.h5ad")
    return {"obs": table.obs.to_csv(), **{key: np.asarray(value) for key, value in table.obsm.items()}}


def export_content(out: Path) -> dict | None:
    path = out / "cells.geojson"
    return {"features": json.loads(path.read_text())["features"]} if path.exists() else None


@pytest.fixture(scope="module")
def ingest(verbs: Verbs, folder: Path) -> Trial:
    inputs = folder / "bundles"
    made_bundle(inputs, "s", size_um=100)
    case = Case(
        "ingest",
        lambda out, given: [
            "ingest",
            given / "s",
            "--he",
            given / "s/s_he_image.ome.tif",
            "-o",
            out / "s.zarr",
        ],
        slide_content,
        inputs,
        frozenset({"s.zarr"}),
    )
    return Trial(verbs, case, folder / "ingest")


@pytest.fixture(scope="module")
def embed(verbs: Verbs, folder: Path) -> Trial:
    inputs = folder / "slides"
    write_store(made_slide(n_cells=80), inputs / "s.zarr", block_size=256)
    save_checkpoint(made_checkpoint(), inputs / "encoder.safetensors")
    case = Case(
        "embed",
        lambda out, given: [
            "embed", given / "s.zarr", "-c", given / "encoder.safetensors", "-o", out / "e.h5ad",
            "--batch-size", "8",
        ],
        embed_content,
        inputs,
        frozenset({"e.h5ad"}),
    )  # fmt: skip
    return Trial(verbs, case, folder / "embed")


@pytest.fixture(scope="module")
def export(verbs: Verbs, folder: Path, embed: Trial) -> Trial:
    case = Case(
        "export",
        lambda out, given: ["export", given / "s.zarr", "--qupath", "-o", out / "cells.geojson"],
        export_content,
        embed.case.inputs,
        frozenset({"cells.geojson"}),
    )
    return Trial(verbs, case, folder / "export")


def test_ingest(ingest: Trial) -> None:
    """Kills are in `test_ingest_kill`; here many of them, where asked for."""
    if MOMENTS:
        ingest.kills(0)
    for said in ingest.refusals(1) | ingest.full_disks(1):
        assert "s.zarr" in said
        assert "No space left" in said or "no room" in said
    assert "s.zarr cannot be written (Read-only file system" in ingest.no_right()
    for said in ingest.robbed(1, "truncate", "s"):
        assert "/s" in said
    ingest.two()


def test_embed(embed: Trial) -> None:
    embed.kills(3, chain=True)
    for said in embed.refusals(1) | embed.full_disks(1):
        assert "e.h5ad: there is no room" in said or "what was kept before is whole" in said
    for said in embed.robbed(1, "remove", "s.zarr"):
        assert "s.zarr" in said
    embed.two()


def test_export(export: Trial) -> None:
    export.kills(2)
    for said in export.refusals(1) | export.full_disks(1):
        assert "cells.geojson: there is no room" in said
    export.two()
