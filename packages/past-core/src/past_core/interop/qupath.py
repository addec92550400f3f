"""Cells as QuPath's GeoJSON (0.4 and later): outlines, nuclei, measurements and classification."""

import gzip
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO

import numpy as np
import shapely

from past_core.atomic import replacing
from past_core.ingest.store import SlideStore
from past_core.interop.groups import ExportError, Groups, cell_groups, native_scale
from past_core.interop.outlines import cell_batches

MAX_GENES = 500
"""Genes that are written at most; QuPath holds every measurement of every cell in memory."""
PER_CELL = 10_000
"""Counts that a cell is normalised to before the logarithm."""
DECIMALS = 2
"""Of coordinates: a hundredth of a pixel."""
ENDINGS = (".geojson", ".geojson.gz", ".json", ".json.gz")
MEASUREMENTS = {
    "cell_area_um2": "Cell: Area µm^2",
    "nucleus_area_um2": "Nucleus: Area µm^2",
    "nucleus_count": "Nuclei",
    "n_counts": "Counts",
    "n_genes": "Genes",
    "control_counts": "Control counts",
}
"""Columns of the table of cells and what QuPath shows them as."""
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "past-core/cell")


def write_qupath(
    store: SlideStore,
    output: Path,
    *,
    groups: str | None = None,
    genes: Sequence[str] = (),
    log1p: bool = False,
    every_cell: bool = False,
    overwrite: bool = False,
) -> int:
    """Writes the cells of a slide as QuPath's objects of type `cell`.

    Coordinates are pixels of the H&E file's full resolution, as QuPath has them. An object's id is a UUID
    made of the slide's name and the cell's id, so that an export made again has the same ids. The file is
    written batch by batch; what was at `output` stays until the new one is whole.

    Args:
        store: The slide, on local disk.
        output: `.geojson` or `.json`, also gzipped (`.gz`), which QuPath reads as well.
        groups: Column of the table of cells that becomes the classification; by default quality.
        genes: Symbols or Ensembl ids whose expression becomes a measurement `Gene: SYMBOL`.
        log1p: Write ln(1 + counts per 10,000 of the cell) instead of raw counts.
        every_cell: Also cells that failed quality control.
        overwrite: Replace a file that is there.

    Returns:
        Cells written.

    Raises:
        ExportError: The output's ending or existence, an unknown or ambiguous gene, too many genes, or groups
            that are none.
        StoreError: The outlines are damaged.
        RemoteError: The store is behind a URL.
    """
    if not output.name.lower().endswith(ENDINGS):
        raise ExportError(
            f"{output} is not a file that QuPath imports; end it in one of {', '.join(ENDINGS)}"
        )
    if output.is_dir() or (output.exists() and not overwrite):
        raise ExportError(f"{output} exists; pass --overwrite to replace the file, or choose another output")
    expression = _Expression(store, genes, log1p=log1p)
    cells = _Cells(store, cell_groups(store, groups), expression)
    written = 0
    with replacing(output) as temporary, _text(temporary, packed=output.name.lower().endswith(".gz")) as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for features in cells.features(every_cell=every_cell):
            file.write((",\n" if written else "\n") + ",\n".join(features))
            written += len(features)
        file.write("\n]}\n")
        if not written:
            raise ExportError(
                f"{store.path}: no cell with an outline passes quality control; --all exports the others"
            )
    return written


@contextmanager
def _text(path: Path, *, packed: bool) -> Iterator[IO[str]]:
    with path.open("wb") as raw:
        if not packed:
            with TextIOWrapper(raw, encoding="utf-8", newline="\n") as text:
                yield text
            return
        # No name and no time in the header: the same cells make the same bytes.
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=5, mtime=0) as zipped,
            TextIOWrapper(zipped, encoding="utf-8", newline="\n") as text,
        ):
            yield text


class _Expression:
    """Expression of some genes, read for some rows at a time."""

    def __init__(self, store: SlideStore, genes: Sequence[str], *, log1p: bool) -> None:
        if len(genes) > MAX_GENES:
            raise ExportError(
                f"{len(genes):,} genes asked for, at most {MAX_GENES} are written: QuPath keeps each as a "
                "measurement of every cell. Name those that are wanted with --genes"
            )
        self.columns = [_gene(store, gene) for gene in dict.fromkeys(genes)]
        unit = " (log1p)" if log1p else ""
        symbols = store.genes["symbol"].astype(str)
        ids = store.genes.index.astype(str)
        repeated = symbols.duplicated(keep=False).to_numpy()
        self.names = [
            f"Gene: {ids[column] if repeated[column] else symbols.iloc[column]}{unit}"
            for column in self.columns
        ]
        self._log1p = log1p
        self._totals = store.obs["n_counts"].to_numpy(np.float64)
        self._counts = None
        if genes:
            import zarr
            from anndata.io import sparse_dataset

            table = zarr.open_group(str(store.path / "tables" / "cells"), mode="r", use_consolidated=False)
            self._counts = sparse_dataset(table["X"])

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), genes) values; `rows` are ascending and near one another."""
        if self._counts is None:
            return np.zeros((len(rows), 0))
        start, stop = int(rows[0]), int(rows[-1]) + 1
        values = self._counts[start:stop][rows - start][:, self.columns].toarray().astype(np.float64)
        if self._log1p:
            values *= PER_CELL / np.maximum(self._totals[rows], 1)[:, None]
            values = np.log1p(values)
        return values


def _gene(store: SlideStore, name: str) -> int:
    genes = store.genes
    found = np.flatnonzero((genes.index == name) | (genes["symbol"].astype(str) == name))
    if len(found) == 1:
        return int(found[0])
    if len(found):
        raise ExportError(
            f"{store.path}: {len(found)} genes are called {name!r} ({', '.join(genes.index[found])}); give "
            "the Ensembl id"
        )
    from difflib import get_close_matches

    near = get_close_matches(name.upper(), genes["symbol"].astype(str).tolist(), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "its panel does not measure it"
    raise ExportError(f"{store.path} has no gene {name!r} among its {len(genes):,}; {hint}")


class _Cells:
    """The cells of a store as lines of JSON."""

    def __init__(self, store: SlideStore, groups: Groups, expression: _Expression) -> None:
        self._store, self._groups, self._expression = store, groups, expression
        obs = store.obs
        measured = {name: shown for name, shown in MEASUREMENTS.items() if name in obs}
        self._measured = obs[list(measured)].to_numpy(np.float64)
        self._names = [
            json.dumps(name, ensure_ascii=False) for name in (*measured.values(), *expression.names)
        ]
        self._scale = native_scale(store)
        self._classes = [
            json.dumps({"name": name, "color": list(colour)}, ensure_ascii=False)
            for name, colour in zip(groups.names, groups.colours, strict=True)
        ]

    def features(self, *, every_cell: bool) -> Iterator[list[str]]:
        ids = self._store.cell_ids
        passed = self._store.passed
        for rows, polygons, nuclei in cell_batches(self._store):
            kept = np.full(len(rows), True) if every_cell else passed[rows]
            rows = rows[kept]
            if not len(rows):
                continue
            outlines, inner = self._geometry(polygons[kept]), self._geometry(nuclei[kept])
            values = np.column_stack([self._measured[rows], self._expression.rows(rows)])
            yield [
                self._feature(str(ids[row]), row, outline, nucleus, own)
                for row, outline, nucleus, own in zip(rows, outlines, inner, values.tolist(), strict=True)
            ]

    def _geometry(self, shapes: np.ndarray) -> np.ndarray:
        scaled = shapely.transform(shapes, lambda points: np.round(points * self._scale, DECIMALS))
        return shapely.to_geojson(scaled)

    def _feature(self, cell: str, row: int, outline: str, nucleus: str | None, values: list[float]) -> str:
        code = int(self._groups.codes[row])
        # What is not known is left out: JSON has no word for it.
        known = ", ".join(
            f"{name}: {value:.6g}" if value != int(value) else f"{name}: {int(value)}"
            for name, value in zip(self._names, values, strict=True)
            if np.isfinite(value)
        )
        parts = [
            '{"type": "Feature"',
            f'"id": "{uuid.uuid5(_NAMESPACE, f"{self._store.name}/{cell}")}"',
            f'"geometry": {outline}',
            *([f'"nucleusGeometry": {nucleus}'] if nucleus is not None else []),
            f'"properties": {{"objectType": "cell", "name": {json.dumps(cell)}',
            *([f'"classification": {self._classes[code]}'] if code >= 0 else []),
            f'"measurements": {{{known}}}',
        ]
        return ", ".join(parts) + "}}"
