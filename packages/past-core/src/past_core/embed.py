"""Slides to embeddings: a vector per cell of a slide store, or per tile of a plain slide."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from past_core.atomic import replacing
from past_core.embed_partial import partial_vectors, sweep
from past_core.errors import PastError
from past_core.ingest.store import SlideStore, is_store
from past_core.remote import Location, locate, require_local
from past_core.slides import Slide, iter_patches, open_slide, tile_grid
from past_core.slides.stored import StoredSlide
from past_core.tokens import VocabularyError

if TYPE_CHECKING:
    from past_core.encoders import FrozenCellEncoder, FrozenEncoder

logger = logging.getLogger(__name__)

IMAGE_KEY, CELL_KEY, SPATIAL_KEY, MANIFEST_KEY = "past_image", "past_cell", "spatial", "past"
SUFFIXES = (".h5ad", ".zarr")
STAMP = "made with the demo encoder, which was trained on synthetic tissue: for trying out only"

Sides = Literal["auto", "image", "cell", "both"]
Progress = Callable[[int, int], None]
"""Called with the number of embeddings done since the last call, and their number in all."""
CELL_BATCHES = 16
"""Batches of cells that are embedded between two looks at what must be kept."""


class EmbedError(PastError, ValueError):
    """Embeddings that cannot be made from this input, or not be written there."""


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
    if with_image:
        table.obsm[IMAGE_KEY] = _embed_patches(
            slide or StoredSlide(store), table, image, batch_size, report, output
        )
    if with_cell:
        vectors = _embed_counts(store, cell, rows, batch_size, report, output)
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
    table.obsm[IMAGE_KEY] = _embed_patches(slide, table, image, batch_size, report, output)
    table.uns[MANIFEST_KEY] = _manifest("tiles", slide.name, slide.path, slide.mpp, image) | {
        "tile_um": float(spacing),
        "min_tissue": float(min_tissue),
    }
    return table


def write_embeddings(table: ad.AnnData, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes an AnnData as `.h5ad` or `.zarr`, whole or not at all; what was kept beside it then goes.

    Raises:
        EmbedError: another suffix, or something is there already.
    """
    path = check_output(path, overwrite=overwrite)
    with replacing(path) as temporary:
        if path.suffix == ".h5ad":
            table.write_h5ad(temporary)
        else:
            # Version 3, as slide stores are; the warnings announce changes of later anndata and zarr.
            with warnings.catch_warnings(action="ignore"), ad.settings.override(zarr_write_format=3):
                table.write_zarr(temporary)
    sweep(path)
    return path


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """Refuses an output that could not be written, before any work is done.

    Raises:
        EmbedError: see `write_embeddings`.
        RemoteError: a URL.
    """
    path = require_local(path)
    if path.suffix not in SUFFIXES:
        raise EmbedError(
            f"{path}: embeddings are written as {' or '.join(SUFFIXES)}; give the output that suffix"
        )
    if path.exists() and not overwrite:
        raise EmbedError(f"{path} exists already; choose another name or pass --overwrite")
    return path


def read_manifest(path: str | Path) -> dict[str, Any] | None:
    """The manifest of written embeddings; None where there are none that can be read.

    Raises:
        EmbedError: something else is there.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        if path.suffix == ".h5ad":
            with h5py.File(path, "r") as file:
                manifest = read_elem(file["uns"][MANIFEST_KEY])
        else:
            manifest = read_elem(zarr.open_group(path, mode="r")["uns"][MANIFEST_KEY])
    except Exception as error:  # whatever h5py, zarr or anndata raise on foreign data
        raise EmbedError(f"{path} exists but holds no embeddings of PAST ({error})") from error
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in manifest.items()}


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


def _embed_patches(
    slide: Slide,
    table: ad.AnnData,
    encoder: "FrozenEncoder",
    batch_size: int,
    report: Callable[[int], None],
    output: str | Path | None,
) -> np.ndarray:
    centres = np.ascontiguousarray(table.obsm[SPATIAL_KEY], np.float64)
    key = {
        "side": "image",
        "encoder": encoder.fingerprint,
        "precision": encoder.precision,
        "source": source_key(slide.path),
        "mpp": float(slide.mpp),
        "centres": hashlib.sha256(centres.tobytes()).hexdigest(),
    }
    with partial_vectors(output, key, table.n_obs, encoder.dim) as vectors:
        rows = np.flatnonzero(~vectors.done)
        if len(rows) < table.n_obs:
            report(table.n_obs - len(rows))
        # Batches come in reading order, so that the rest of an interrupted run has the batches it would have had.
        stream = iter_patches(
            slide, centres[rows], mpp=encoder.mpp, size=encoder.patch_size, batch_size=batch_size
        )
        for index, batch in encode_stream(encoder, stream):
            bad = np.flatnonzero(~np.isfinite(batch).all(axis=1))
            if len(bad):
                raise EmbedError(
                    f"{slide.path}: {encoder.name} gives NaN or infinity for {len(bad)} of a batch of "
                    f"{len(batch)} patches, the first {table.obs_names[rows[index[bad[0]]]]}"
                )
            vectors.add(rows[index], batch)
            report(len(index))
    return vectors.values


def encode_stream(
    encoder: "FrozenEncoder", stream: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Encodes a stream of patches; an accelerator works on one batch while the next is read and copied.

    Args:
        encoder: the encoder.
        stream: indices `(B,)` and patches `(B, 3, L, L)` uint8.

    Yields:
        indices and vectors `(B, dim)` float32.
    """
    import torch

    if encoder.device.type == "cpu":
        for index, images in stream:
            yield index, encoder(images).numpy()
        return
    # Two pinned buffers: a batch's results have arrived before its buffer's next but one turn.
    buffers: list[torch.Tensor | None] = [None, None]
    waiting: tuple[np.ndarray, torch.Tensor] | None = None
    for number, (index, images) in enumerate(stream):
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        if encoder.device.type == "cuda":
            buffer = buffers[number % 2]
            if buffer is None or len(buffer) < len(pixels):
                buffer = buffers[number % 2] = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
            pixels = buffer[: len(pixels)].copy_(pixels)
        result = encoder(pixels)
        if waiting is not None:
            yield waiting[0], waiting[1].cpu().numpy()
        waiting = index, result
    if waiting is not None:
        yield waiting[0], waiting[1].cpu().numpy()


def _embed_counts(
    store: SlideStore,
    cell: "FrozenCellEncoder",
    rows: np.ndarray,
    batch_size: int,
    report: Callable[[int], None],
    output: str | Path | None,
) -> np.ndarray:
    from past_core.frozen_cell import Neighborhood

    near = Neighborhood.from_distances(store.neighbors, store.distances, median_um=store.median_distance)
    key = {
        "side": "cell",
        "encoder": cell.fingerprint,
        "source": source_key(store.path),
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "neighbors": hashlib.sha256(near.index.tobytes() + near.distance.tobytes()).hexdigest(),
    }
    with partial_vectors(output, key, len(rows), cell.dim) as vectors:
        rest = np.flatnonzero(~vectors.done)
        if len(rest) < len(rows):
            report(len(rows) - len(rest))
        for start in range(0, len(rest), batch_size * CELL_BATCHES):
            part = rest[start : start + batch_size * CELL_BATCHES]
            made = cell(
                store.counts,
                list(store.genes.index),
                neighborhood=near,
                rows=rows[part],
                assay=store.assay,
                organism=store.organism,
                modality=store.modality,
                batch_size=batch_size,
                progress=report,
                source=str(store.path),
            )
            vectors.add(part, made.numpy())
    return vectors.values


def source_key(path: str | Location) -> str:
    """Tells whether a slide is still the one that was embedded; cheap, and empty where nothing is there."""
    path = locate(path)
    if isinstance(path, Path) and path.is_file():
        return f"{path.stat().st_size} bytes"
    for metadata in (path / "zarr.json", path / ".zattrs"):
        if metadata.is_file():
            return hashlib.sha256(metadata.read_bytes()).hexdigest()
    return ""


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
