"""Ways to damage bytes, tables, matrix and masks of a Xenium bundle."""

import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BYTES = ("truncate", "truncate", "flip", "flip", "zero", "cut", "repeat", "swap", "insert")


def spoil(content: bytes, how: str, at: float, other: float, bits: list[tuple[float, int]]) -> bytes:
    """Bytes with something done to them at a place."""
    n = len(content)
    i, length = int(at * n), max(1, int(other * min(n, 4096)))
    if how == "truncate":
        return content[:i]
    if how == "flip":
        changed = bytearray(content)
        for place, bit in bits:
            changed[int(place * n)] ^= 1 << bit
        return bytes(changed)
    if how == "zero":
        return content[:i] + bytes(len(content[i : i + length])) + content[i + length :]
    if how == "cut":
        return content[:i] + content[i + length :]
    if how == "repeat":
        return content[: i + length] + content[i:]
    if how == "swap":
        j = min(n, i + length)
        return content[:i] + content[j : j + length] + content[i:j] + content[j + length :]
    return content[:i] + bytes(range(256)) * (1 + length // 256) + content[i:]


def column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with other values in a column."""
    return table.set_column(table.column_names.index(name), name, values)


NUMERIC = {
    "cells.parquet": (
        *("x_centroid", "y_centroid", "cell_area", "nucleus_area"),
        *("nucleus_count", "transcript_counts"),
    ),
    "cell_boundaries.parquet": ("vertex_x", "vertex_y", "label_id"),
    "nucleus_boundaries.parquet": ("vertex_x", "vertex_y", "label_id"),
}


class Mangler:
    """One of the ways to damage a table.

    Args:
        table: The table.
        name: Its file.
        rng: What is drawn: a column of numbers, some rows.
    """

    def __init__(self, table: pa.Table, name: str, rng: np.random.Generator) -> None:
        self.table, self.rng = table, rng
        self.n, self.names = table.num_rows, table.column_names
        self.x, self.y = NUMERIC[name][:2]
        self.target = str(rng.choice(NUMERIC[name]))
        self.values = table[self.target].to_pandas().to_numpy(dtype=float)
        self.some = rng.random(self.n) < rng.choice([0.02, 0.3, 1.0])
        self.ids = table["cell_id"].to_pylist()

    def put(self, values) -> pa.Table:
        return column(self.table, self.target, pa.array(values))

    def renamed(self) -> pa.Table:
        other = str(self.rng.choice(self.names))
        return self.table.rename_columns([f"{c} " if c == other else c for c in self.names])

    def names_swapped(self) -> pa.Table:
        other = self.y if self.target == self.x else self.x
        swapped = {self.target: other, other: self.target}
        return self.table.rename_columns([swapped.get(c, c) for c in self.names])

    def axes_swapped(self, rows) -> pa.Table:
        a, b = (self.table[c].to_numpy().copy() for c in (self.x, self.y))
        a[rows], b[rows] = b[rows], a[rows]
        return column(column(self.table, self.x, pa.array(a)), self.y, pa.array(b))

    def as_text(self) -> pa.Table:
        other = str(self.rng.choice(self.names))
        return column(self.table, other, pc.cast(self.table[other].combine_chunks(), pa.string()))

    def with_ids(self, change) -> pa.Table:
        ids = list(self.ids)
        change(ids, *self.rng.choice(self.n, 2, replace=False).tolist())
        return column(self.table, "cell_id", pa.array(ids))


def _exchange(ids, i, j):
    ids[i], ids[j] = ids[j], ids[i]


def _repeat(ids, i, j):
    ids[i] = ids[j]


def _forget(ids, i, _):
    ids[i] = None


MANGLE = {
    "rename": Mangler.renamed,
    "drop": lambda m: m.table.drop_columns([str(m.rng.choice(m.names))]),
    "order of columns": lambda m: m.table.select([m.names[k] for k in m.rng.permutation(len(m.names))]),
    "order of rows": lambda m: m.table.take(pa.array(m.rng.permutation(m.n))),
    "reverse": lambda m: m.table.take(pa.array(np.arange(m.n)[::-1])),
    "swap names": Mangler.names_swapped,
    "swap all": lambda m: m.axes_swapped(slice(None)),
    "swap some": lambda m: m.axes_swapped(m.some),
    "swap every other": lambda m: m.axes_swapped(np.arange(m.n) % 2 == 0),
    "nulls": lambda m: column(m.table, m.target, pa.array(m.values, mask=m.some, from_pandas=True)),
    "nan": lambda m: m.put(np.where(m.some, np.nan, m.values)),
    "infinite": lambda m: m.put(np.where(m.some, np.inf, m.values)),
    "negative": lambda m: m.put(np.where(m.some, -1.0, m.values)),
    "large": lambda m: m.put(np.where(m.some, 1e300, m.values)),
    "text": Mangler.as_text,
    "float": lambda m: m.put(m.values.astype(np.float32)),
    "integer": lambda m: m.put(np.nan_to_num(m.values).astype(np.int64)),
    "boolean": lambda m: m.put(m.values > 0),
    "lists": lambda m: m.put([[v] for v in m.values.tolist()]),
    "shift": lambda m: m.put(np.roll(m.values, 1)),
    "duplicate rows": lambda m: pa.concat_tables([m.table, m.table.slice(0, int(m.rng.integers(1, m.n)))]),
    "some rows": lambda m: m.table.slice(int(m.rng.integers(0, 3)), int(m.rng.integers(1, m.n))),
    "no rows": lambda m: m.table.slice(0, 0),
    "ids of others": lambda m: m.with_ids(_exchange),
    "repeat an id": lambda m: m.with_ids(_repeat),
    "null id": lambda m: m.with_ids(_forget),
    "bytes": lambda m: column(m.table, "cell_id", pa.array([v.encode() for v in m.ids], pa.binary())),
    "category": lambda m: column(m.table, "cell_id", pa.array(m.ids).dictionary_encode()),
    "twice the column": lambda m: m.table.append_column(m.target, pa.array(m.values)),
}


def mangle(table: pa.Table, name: str, how: str, seed: int) -> pa.Table:
    """A table with something done to it."""
    return MANGLE[how](Mangler(table, name, np.random.default_rng(seed)))


PARTS = (
    *("data", "indices", "indptr", "shape", "barcodes"),
    *("features/id", "features/name", "features/feature_type"),
)
CHANGES = (
    *("remove", "reverse", "shuffle", "shorter", "longer", "text", "float", "small integers", "negative"),
    *("huge", "constant", "two dimensions", "a group", "swap two", "external", "scalar", "zeros"),
)


def change_part(file, name, values, how, rng):
    n = len(values)
    numbers = values.dtype.kind in "iuf"
    if how == "remove":
        return
    if how == "a group":
        file.create_group(name)
    elif how == "external":
        file[name] = h5py.ExternalLink("/etc/hostname", "/data")
    elif how == "scalar":
        file[name] = values[0]
    else:
        i, j = rng.choice(n, 2, replace=False)
        swapped = values.copy()
        swapped[[i, j]] = values[[j, i]]
        file[name] = {
            "reverse": lambda: values[::-1],
            "shuffle": lambda: rng.permutation(values),
            "shorter": lambda: values[: int(rng.integers(0, n))],
            "longer": lambda: np.concatenate([values, values[:1]]),
            "text": lambda: values.astype("S"),
            "float": lambda: values.astype(np.float64) if numbers else np.arange(n, dtype=float),
            "small integers": lambda: values.astype(np.int8) if numbers else np.arange(n, dtype=np.int8),
            "negative": lambda: np.where(np.arange(n) == i, -1, values) if numbers else values[::-1],
            "huge": lambda: np.where(np.arange(n) == i, 2**40, values) if numbers else values[::-1],
            "constant": lambda: np.repeat(values[:1], n),
            "two dimensions": lambda: values[:, None],
            "swap two": lambda: swapped,
            "zeros": lambda: np.zeros_like(values),
        }[how]()


ARRAYS = (
    *("cell_id", "masks/0", "masks/1", "masks/homogeneous_transform"),
    *("polygon_sets/0/cell_index", "polygon_sets/1/cell_index"),
)
SHAPES = (
    *("remove", "transpose", "reverse", "shuffle", "roll", "shorter", "longer", "float", "small integers"),
    *("zeros", "one label", "negative", "more labels", "swap two", "flat", "deep", "half"),
)


def change_array(arrays, name, how, rng):
    values = arrays[name]
    i, j = rng.choice(len(values), 2, replace=False)
    swapped = values.copy()
    swapped[[i, j]] = values[[j, i]]
    if how == "remove":
        del arrays[name]
        return
    arrays[name] = np.ascontiguousarray(
        {
            "transpose": lambda: values.T,
            "reverse": lambda: values[::-1],
            "shuffle": lambda: rng.permutation(values),
            "roll": lambda: np.roll(values, int(rng.integers(1, len(values))), axis=0),
            "shorter": lambda: values[: int(rng.integers(1, len(values)))],
            "longer": lambda: np.concatenate([values, values[:1]]),
            "float": lambda: values.astype(np.float64),
            "small integers": lambda: values.astype(np.uint8),
            "zeros": lambda: np.zeros_like(values),
            "one label": lambda: np.ones_like(values),
            "negative": lambda: -values.astype(np.int64),
            "more labels": lambda: values + np.asarray(1, values.dtype),
            "swap two": lambda: swapped,
            "flat": lambda: values.ravel(),
            "deep": lambda: values[None],
            "half": lambda: np.where(
                np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1)) % 2, values, 0
            ),
        }[how]()
    )


ENTRIES = (
    *("not json", "a list", "null", "pickle", "unknown codec", "object", "structured", "other byte order"),
    *("other order", "zarr 3", "fill", "other separator", "no shape", "shape of text", "negative shape"),
    *("no chunk", "chunk of noise", "consolidated", "in a folder", "traversal", "twice", "nested"),
)


def change_entries(entries, name, how, noise):
    key = f"{name}/.zarray"
    described = json.loads(entries[key])
    chunk = next(k for k in entries if k.startswith(f"{name}/") and not k.endswith((".zarray", ".zattrs")))
    changes = {
        "null": {"compressor": None},
        "pickle": {"filters": [{"id": "pickle"}], "dtype": "|O"},
        "unknown codec": {"compressor": {"id": "made up"}},
        "object": {"dtype": "|O"},
        "structured": {"dtype": [["a", "<u4"], ["b", "<u4"]]},
        "other byte order": {"dtype": ">u4"},
        "other order": {"order": "Z"},
        "zarr 3": {"zarr_format": 3},
        "fill": {"fill_value": "Infinity"},
        "other separator": {"dimension_separator": "/"},
        "shape of text": {"shape": "large"},
        "negative shape": {"shape": [-1] * len(described["shape"])},
    }
    if how in changes:
        entries[key] = json.dumps(described | changes[how]).encode()
    elif how in ("in a folder", "traversal", "twice", "nested"):
        add_entries(entries, key, how, noise)
    elif how == "not json":
        entries[key] = noise
    elif how == "a list":
        entries[key] = b"[1, 2]"
    elif how == "no shape":
        entries[key] = json.dumps({k: v for k, v in described.items() if k != "shape"}).encode()
    elif how == "no chunk":
        del entries[chunk]
    elif how == "chunk of noise":
        entries[chunk] = noise
    elif how == "consolidated":  # another description of the array, that is not to be believed
        told = {"metadata": {key: described | {"dtype": "|O", "filters": [{"id": "pickle"}]}}}
        entries[".zmetadata"] = json.dumps(told | {"zarr_consolidated_format": 1}).encode()


COUNTS = tuple(f"cell_features/{name}" for name in ("cell_id", "data", "indices", "indptr"))
"""Arrays of the matrix in zarr."""
TOLD = {
    "no ids": lambda told: told.pop("feature_ids"),
    "fewer types": lambda told: told["feature_types"].pop(),
    "one name more": lambda told: told["feature_keys"].append("ACTB"),
    "one feature more": lambda told: [
        told[key].append(f"{key}-more") for key in ("feature_ids", "feature_keys", "feature_types")
    ],
    "numbers": lambda told: told.update(feature_ids=[1] * len(told["feature_ids"])),
    "text": lambda told: told.update(feature_keys="ACTB"),
    "other cells": lambda told: told.update(number_cells=told["number_cells"] + 1),
    "other features": lambda told: told.update(number_features=10**12),
    "twice an id": lambda told: told["feature_ids"].__setitem__(1, told["feature_ids"][0]),
    "no gene": lambda told: told.update(feature_types=["unassigned_codeword"] * len(told["feature_types"])),
    "scaled": lambda told: told.update(protein_scaling_factor=-1),
}
"""What may be wrong with the names of its features."""


def add_entries(entries, key, how, noise):
    """Names beside or above those of the arrays."""
    if how == "in a folder":
        for old in list(entries):
            entries[f"cells.zarr/{old}"] = entries.pop(old)
    elif how == "traversal":
        entries["../../outside"] = entries["/tmp/outside"] = noise
        entries[f"../{key}"] = noise
    elif how == "twice":
        entries[f"./{key}"] = entries[f"{key}/"] = noise
    elif how == "nested":
        entries["cells.zarr.zip"] = noise
        entries[f"__MACOSX/._{key}"] = noise
