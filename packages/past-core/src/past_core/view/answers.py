"""What the local page may ask for, and the answers: a fixed list of routes, none of which names a file."""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, unquote

import numpy as np

from past_core.errors import PastError
from past_core.slides import Slide
from past_core.slides.stored import StoredSlide
from past_core.view import colours
from past_core.view.cache import Cache
from past_core.view.cells import Cells
from past_core.view.layers import LAYERS, Layers
from past_core.view.outlines import CELLS, NUCLEI
from past_core.view.tiles import TILE, Grid, encode_jpeg, read_tile

ASSETS = {
    "view.css": "text/css; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
    "panel.js": "text/javascript; charset=utf-8",
    "openseadragon.min.js": "text/javascript; charset=utf-8",
    "openseadragon.LICENSE.txt": "text/plain; charset=utf-8",
}
"""The files of the package that are served, and nothing else is."""
CACHE_BYTES = 2**26
MAX_TARGET = 2048
"""Longest request target, in characters."""
_NUMBER = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?")
_TILE = re.compile(r"([0-9]{1,9})_([0-9]{1,9})\.(jpg|png)")


class BadRequestError(PastError, ValueError):
    """A request that makes no sense."""


class NoRouteError(PastError, LookupError):
    """Nothing is served there."""


@dataclass(frozen=True)
class Answer:
    """A body and its type; `lasting` where it stays the same as long as the server runs."""

    body: bytes
    type: str
    lasting: bool = False


class Answers:
    """Answers requests about one slide. Safe to use from several threads.

    Args:
        slide: an open slide; of a slide store its cells are shown too.
    """

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.grid = Grid(slide.width, slide.height)
        self.cells = Cells(slide.store) if isinstance(slide, StoredSlide) else None
        self.layers = Layers(self.cells, self.grid) if self.cells is not None else None
        self._tiles: Cache[bytes] = Cache(CACHE_BYTES, len)
        # In the addresses of tiles: a browser never shows those of a slide it saw at this port before.
        self.run = secrets.token_hex(4)
        folder = files("past_core.view") / "assets"
        self._page = (folder / "index.html").read_bytes()
        self._assets = {name: (folder / name).read_bytes() for name in ASSETS}

    def answer(self, target: str) -> Answer:
        """Answers the target of a request, as `/cells?x=10&y=20`.

        Raises:
            BadRequestError: A parameter is missing or no number, or the target is malformed.
            NoRouteError: Nothing is served there.
            TileError: No such tile.
            CellNotFoundError: No such cell.
            GeneNotFoundError: No such gene.
            PastError: The slide's data are damaged.
        """
        if len(target) > MAX_TARGET or not target.startswith("/"):
            raise BadRequestError("expected a path that begins with / and is not too long")
        path, _, query = target.partition("?")
        try:
            # Cut before it is decoded: an encoded slash belongs to a name.
            parts = [unquote(part, errors="strict") for part in path.split("/")[1:]]
            values = parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=10)
        except ValueError as error:
            raise BadRequestError("the address is not valid UTF-8, or has too many parameters") from error
        if any(ord(character) < 32 or ord(character) == 127 for part in parts for character in part):
            raise BadRequestError("the address holds control characters")
        match parts:
            case [""]:
                return Answer(self._page, "text/html; charset=utf-8")
            case ["assets", name] if name in self._assets:
                return Answer(self._assets[name], ASSETS[name])
            case ["info.json"]:
                return _json(self.info)
            case ["tiles", level, tile]:
                return self._image(_number(level, "level"), *_tile(tile, "jpg"))
        if self.cells is not None and self.layers is not None:
            return self._about_cells(self.cells, parts, values)
        raise NoRouteError("nothing is served there")

    def _about_cells(self, cells: Cells, parts: list[str], values: dict[str, list[str]]) -> Answer:
        match parts:
            case ["layers", layer, level, tile] if layer in LAYERS and layer != "expression":
                return self._layer(layer, None, _number(level, "level"), *_tile(tile, "png"))
            case ["expression", gene, level, tile]:
                number = cells.gene_number(gene)
                return self._layer("expression", number, _number(level, "level"), *_tile(tile, "png"))
            case ["expression", gene]:
                return _json(self._gene(cells, cells.gene_number(gene)))
            case ["cells"]:
                row = cells.at(_decimal(values, "x"), _decimal(values, "y"))
                return _json({"cell": None if row is None else cells.describe(row)})
            case ["cell", name]:
                return _json({"cell": cells.describe(cells.find(name))})
            case ["genes"]:
                return _json({"genes": cells.search(values.get("q", [""])[0])})
        raise NoRouteError("nothing is served there")

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the page knows from the start."""
        info: dict[str, Any] = {
            "name": self.slide.name,
            "width": self.grid.width,
            "height": self.grid.height,
            "mpp": self.slide.mpp,
            "tile": TILE,
            "top": self.grid.top,
            "run": self.run,
            "layers": [],
        }
        if self.cells is None:
            return info
        store = self.cells.store
        layers = [name for name, element in (("cells", CELLS), ("nuclei", NUCLEI)) if self.cells.has(element)]
        reasons = self.cells.reasons
        return info | {
            "layers": [*layers, "qc", "expression"],
            "patient": store.patient,
            "cancer_type": store.cancer_type,
            "cells": store.n_cells,
            "passed": int(store.passed.sum()),
            "genes": len(store.genes),
            "colours": {"cells": colours.css(colours.CELLS), "nuclei": colours.css(colours.NUCLEI)},
            "scale": [colours.css(colour) for colour in colours.viridis(np.linspace(0, 1, 17))],
            "reasons": [
                {
                    "reason": reason,
                    "cells": number,
                    "colour": colours.css(colours.REASONS[k % len(colours.REASONS)]),
                }
                for k, (reason, number) in enumerate(reasons)
            ],
        }

    @staticmethod
    def _gene(cells: Cells, number: int) -> dict[str, Any]:
        name, symbol = cells.gene_names(number)
        gene = cells.gene(number)
        return {
            "id": name,
            "symbol": symbol,
            "top": gene.top,
            "highest": float(gene.values.max(initial=0)),
            "expressing": gene.expressing,
            "cells": len(gene.values),
        }

    def _image(self, level: int, x: int, y: int) -> Answer:
        body = self._kept(
            ("image", level, x, y),
            lambda: encode_jpeg(read_tile(self.slide, self.grid, level, x, y)),
        )
        return Answer(body, "image/jpeg", lasting=True)

    def _layer(self, layer: str, gene: int | None, level: int, x: int, y: int) -> Answer:
        assert self.layers is not None
        layers = self.layers
        body = self._kept((layer, gene, level, x, y), lambda: layers.render(layer, level, x, y, gene=gene))
        return Answer(body, "image/png", lasting=True)

    def _kept(self, key: tuple[Any, ...], make: Callable[[], bytes]) -> bytes:
        return self._tiles.get(key, make)


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value, allow_nan=False).encode(), "application/json")


def _number(text: str, name: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise BadRequestError(f"{name} should be a whole number of up to nine digits")
    return int(text)


def _tile(text: str, suffix: str) -> tuple[int, int]:
    match = _TILE.fullmatch(text)
    if match is None or match[3] != suffix:
        raise BadRequestError(f"a tile should be named COLUMN_ROW.{suffix}")
    return int(match[1]), int(match[2])


def _decimal(values: dict[str, list[str]], name: str) -> float:
    given = values.get(name, [])
    if len(given) != 1 or not _DECIMAL.fullmatch(given[0]):
        raise BadRequestError(f"{name} should be given once, as a decimal number of level-0 pixels")
    return float(given[0])
