"""Slides to embeddings: a vector per cell of a slide store, or per tile of a plain slide."""

import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anndata as ad
import numpy as np
import pandas as pd

from past_core.embed.output import (
    MANIFEST_KEY,
    EmbedError,
)
from past_core.embed.vectors import embed_counts, embed_patches
from past_core.ingest.store import SlideStore, is_store
from past_core.remote import Location
from past_core.slides import Slide, open_slide, tile_grid
from past_core.slides.identity import source_key
from past_core.slides.stored import StoredSlide
from past_core.tokens import VocabularyError

if TYPE_CHECKING:
    from past_core.encoders import FrozenCellEncoder, FrozenEncoder

logger = logging.getLogger(__name__)

IMAGE_KEY, CELL_KEY, SPATIAL_KEY = "past_image", "past_cell", "spatial"
STAMP = "made with the demo encoder, which was trained on synthetic tissue: for trying out only"

Sides = Literal["auto", "image", "cell", "both"]
Progress = Callable[[int, int], None]
"""Called with the number of embeddings done since the last call, and their number in all."""


def embed_slide(
    path: str | Location,
    image: "FrozenEncoder | None",
    cell: "FrozenCellEncoder | None" = None,
    *,
    sides: Sides = "auto",
    mpp: float | None = None,
    tile_um: float | None = None,
    min_tissue: float = 0.25,
    batch_size: int = 64,
    progress: Progress | None = None,
    output: str | Path | None = None,
) -> ad.AnnData:
    """Embeds the cells of a slide store, or the tissue tiles of any other slide.

    Args:
        path: a slide store or an image; a slide store or OME-Zarr also by URL.
        image: the image encoder; not needed for cells only.
        cell: the cell encoder; None embeds images only.
        sides: "image", "cell" or "both" embed exactly these; "auto" adds the cell side to the image side
            where the input has counts of genes that the encoder knows.
        mpp: µm per pixel of an image that does not state it.
        tile_um: distance between tiles of an image; by default the side of the encoder's field.
        min_tissue: least share of tissue in a tile.
        batch_size: patches at a time.
        progress: called after every batch.
        output: where `write_embeddings` will write the result: what is done is kept beside it, and an
            interrupted run goes on from there.

    Returns:
        AnnData with `obsm["past_image"]` and `obsm["past_cell"]` (float32), `obsm["spatial"]` in level-0
        pixels, `obs`, and the manifest in `uns["past"]`.

    Raises:
        EmbedError: a side that the input or the encoder does not have.
        SlideError, StoreError, VocabularyError: see `open_slide`, `SlideStore`, `FrozenCellEncoder`.
    """
    if is_store(path):
        if tile_um is not None:
            raise EmbedError(f"{path}: a slide store is embedded cell by cell; leave --tile-um out")
        with open_slide(path, mpp=mpp) as slide:
            assert isinstance(slide, StoredSlide)  # what `is_store` is true of
            return embed_cells(
                slide.store,
                image,
                cell,
                sides=sides,
                batch_size=batch_size,
                progress=progress,
                slide=slide,
                output=output,
            )
    if sides in ("cell", "both"):
        raise EmbedError(f"{path}: an image has no counts; only a slide store has the cell side")
    if image is None:
        raise EmbedError(f"{path}: an image needs an image encoder")
    with open_slide(path, mpp=mpp) as slide:
        return embed_tiles(
            slide,
            image,
            tile_um=tile_um,
            min_tissue=min_tissue,
            batch_size=batch_size,
            progress=progress,
            output=output,
        )


def embed_cells(
    store: SlideStore,
    image: "FrozenEncoder | None",
    cell: "FrozenCellEncoder | None" = None,
    *,
    sides: Sides = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
    slide: Slide | None = None,
    output: str | Path | None = None,
) -> ad.AnnData:
    """Embeds the cells of a slide store that passed quality control; see `embed_slide`.

    A cell without a single count of a gene that the encoder knows has NaN in `obsm["past_cell"]` and False
    in `obs["past_cell"]`.
    """
    rows = np.flatnonzero(store.passed)
    if not len(rows):
        raise EmbedError(f"{store.path}: none of its {store.n_cells} cells passed quality control")
    with_image, with_cell = _sides(store, image, cell, sides)
    total = len(rows) * (with_image + with_cell)
    report = (lambda done: progress(done, total)) if progress else (lambda done: None)
    table = ad.AnnData(obs=store.obs.iloc[rows].copy(), obsm={SPATIAL_KEY: store.centroids[rows]})
    manifest = _manifest("cells", store.name, store.path, store.mpp, image if with_image else None)
    if with_image and image is not None:
        table.obsm[IMAGE_KEY] = embed_patches(
            slide or StoredSlide(store),
            store.centroids[rows],
            table.obs_names,
            image,
            batch_size,
            report,
            output,
        )
    if with_cell and cell is not None:
        vectors = embed_counts(store, cell, rows, batch_size, report, output)
        table.obsm[CELL_KEY] = vectors
        known = np.isfinite(vectors[:, 0])
        table.obs[CELL_KEY] = known
        if not known.all():
            logger.warning(
                "%s: %d of %d cells have no count of a gene that the encoder knows; their rows of %s are NaN",
                store.path, np.count_nonzero(~known), len(known), CELL_KEY,
            )  # fmt: skip
        manifest |= {"cell_encoder": cell.name, "cell_fingerprint": cell.fingerprint, "space": cell.space}
        manifest["vocabulary"] = cell.vocabulary.fingerprint
        manifest |= {"demo": STAMP} if cell.demo else {}
    manifest |= {"sides": sides, "left_out": int(store.n_cells - len(rows))}
    table.uns[MANIFEST_KEY] = manifest
    return table


def embed_tiles(
    slide: Slide,
    image: "FrozenEncoder",
    *,
    tile_um: float | None = None,
    min_tissue: float = 0.25,
    batch_size: int = 64,
    progress: Progress | None = None,
    output: str | Path | None = None,
) -> ad.AnnData:
    """Embeds the tissue of a slide tile by tile; see `embed_slide`.

    Tiles lie `tile_um` apart; each is seen through the encoder's own field at the encoder's own resolution.
    """
    spacing = image.field_um if tile_um is None else tile_um
    grid = tile_grid(slide, tile_um=spacing, min_tissue=min_tissue)
    names = [f"{row}_{column}" for row, column in grid.index]
    obs = pd.DataFrame(
        {
            "row": grid.index[:, 0],
            "column": grid.index[:, 1],
            "x_um": grid.centres[:, 0] * slide.mpp,
            "y_um": grid.centres[:, 1] * slide.mpp,
            "tissue": grid.tissue.astype(np.float32),
        },
        index=pd.Index(names, name="tile"),
    )
    table = ad.AnnData(obs=obs, obsm={SPATIAL_KEY: grid.centres})
    report = (lambda done: progress(done, len(obs))) if progress else (lambda done: None)
    table.obsm[IMAGE_KEY] = embed_patches(slide, grid.centres, names, image, batch_size, report, output)
    table.uns[MANIFEST_KEY] = _manifest("tiles", slide.name, slide.path, slide.require_mpp(), image) | {
        "tile_um": float(spacing),
        "min_tissue": float(min_tissue),
    }
    return table


def _sides(
    store: SlideStore, image: "FrozenEncoder | None", cell: "FrozenCellEncoder | None", sides: Sides
) -> tuple[bool, bool]:
    """Which sides are embedded."""
    with_image, with_cell = sides != "cell", sides != "image"
    if with_image and image is None:
        raise EmbedError(f"{store.path}: the image side needs an image encoder")
    if sides in ("cell", "both") and cell is None:
        raise EmbedError(
            f"{store.path}: the cell side needs a checkpoint of PAST; this encoder sees images only"
        )
    if not with_cell or cell is None:
        return with_image, False
    try:
        cell.vocabulary.overlap(list(store.genes.index), source=str(store.path))
    except VocabularyError as error:
        if sides != "auto":
            raise
        logger.warning("embeds the image side only: %s", error)
        return with_image, False
    return with_image, True


def _manifest(
    kind: str, name: str, path: Location, slide_mpp: float, image: "FrozenEncoder | None"
) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "kind": kind,
        "slide": name,
        "source": source_key(path),
        "slide_mpp": float(slide_mpp),
        "software": f"past-core {version('past-core')}",
    }
    if image is not None:
        manifest |= {
            "encoder": image.name,
            "fingerprint": image.fingerprint,
            "space": image.space,
            "precision": image.precision,
            "mpp": float(image.mpp),
            "patch_size": int(image.patch_size),
        }
        manifest |= {"demo": STAMP} if image.demo else {}
    return manifest
