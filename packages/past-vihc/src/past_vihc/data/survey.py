"""One look at a pair: how many tiles it has and what each measures. Kept in the user's cache."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from past_core.atomic import replacing
from past_core.slides import Slide
from past_core.synthetic.cache import cache_folder
from past_vihc.data import measures
from past_vihc.data.content import content_key
from past_vihc.data.pairs import OpenPair, Pair, PairNotFoundError, open_pair
from past_vihc.data.tiles import TileSpec

logger = logging.getLogger(__name__)

VERSION = 2
"""Raised when a measure changes."""
MEASURES = ("he_white", "ihc_white", "he_border", "ihc_border", "focus")
"""By tile: shares of background, shares that are joined to the image's border, sharpness."""
BLOCK = 2048
"""Side of the squares that are read at a time, in pixels of the tiles' resolution."""

Survey = dict[str, np.ndarray]
"""Measures by name, `(rows, columns)` float32 each; "grid" holds rows and columns."""


def survey_pairs(
    pairs: Sequence[Pair],
    spec: TileSpec,
    *,
    measure: bool = True,
    source_mpp: float | None = None,
    cache: str | Path | None = None,
) -> list[Survey]:
    """Looks at every pair, several at a time.

    Args:
        pairs: which.
        spec: the tiles.
        measure: whether tiles are measured, or counted only.
        source_mpp: see `open_pair`.
        cache: folder of the cache; `PAST_CACHE`, else the user's.

    Raises:
        PairError, PairNotFoundError, SlideError, TileError: a pair that cannot be used.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(lambda pair: _kept(pair, spec, measure, source_mpp, cache_folder(cache)), pairs)
        return list(looks)


def survey(opened: OpenPair, spec: TileSpec, *, measure: bool = True) -> Survey:
    """Looks at one opened pair, see `MEASURES`.

    Raises:
        TileError: not one tile fits.
        SlideError: damaged image data.
    """
    rows, columns = spec.grid(opened)
    found: Survey = {"grid": np.array([rows, columns])}
    if not measure:
        return found
    found["he_white"], found["focus"] = _by_block(opened.he, spec, rows, columns, focus=True)
    found["ihc_white"] = _by_block(opened.ihc, spec, rows, columns, focus=False)[0]
    size: dict[str, Any] = {"tile_um": spec.tile_um, "rows": rows, "columns": columns}
    found["he_border"] = measures.border(
        opened.he, lambda image: measures.background(image) | measures.fill(image), **size
    )
    # Unstained tissue is nearly white in IHC: only what no scanner shows tells its border from tissue.
    found["ihc_border"] = measures.border(opened.ihc, measures.fill, **size)
    return {name: values if name == "grid" else values.astype(np.float32) for name, values in found.items()}


def _by_block(
    slide: Slide, spec: TileSpec, rows: int, columns: int, *, focus: bool
) -> tuple[np.ndarray, np.ndarray]:
    view, step, tile = slide.at(spec.mpp), max(1, BLOCK // spec.tile), spec.tile
    white, sharp = np.zeros((rows, columns)), np.zeros((rows, columns))
    for row in range(0, rows, step):
        for column in range(0, columns, step):
            down, across = min(step, rows - row), min(step, columns - column)
            image = view.read(row * tile, column * tile, down * tile, across * tile)
            place = slice(row, row + down), slice(column, column + across)
            white[place] = measures.tile_means(measures.background(image), tile)
            if focus:
                sharp[place] = measures.focus(image, tile)
    return white, sharp


def _kept(pair: Pair, spec: TileSpec, measure: bool, source_mpp: float | None, cache: Path) -> Survey:
    for path in (pair.he, pair.ihc):
        if not path.exists():
            raise PairNotFoundError(f"pair {pair.name}: its image {path} does not exist")
    key = [
        VERSION,
        content_key(pair.he),
        content_key(pair.ihc),
        pair.mpp,
        source_mpp,
        spec.tile,
        spec.mpp,
        measure,
    ]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    path = cache / "vihc" / "tiles" / f"{digest}.npz"
    found = _read(path, measure)
    if found is None:
        opened = open_pair(pair, source_mpp=source_mpp)
        try:
            found = survey(opened, spec, measure=measure)
        finally:
            opened.close()
        with replacing(path) as temporary:
            np.savez(temporary, allow_pickle=False, **found)
    return found


def _read(path: Path, measure: bool) -> Survey | None:
    if not path.is_file():
        return None
    try:
        # Of a damaged archive numpy leaves a file open that it opened itself.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {name: file[name] for name in ("grid", *(MEASURES if measure else ()))}
    except Exception as error:  # noqa: BLE001  (whatever numpy, zipfile and zlib raise on damage)
        logger.warning("%s is damaged (%s): made again", path, error)
        return None
    return found
