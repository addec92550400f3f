"""Cells by group, with a colour of each group: what other programs call classification or cell groups."""

import colorsys
from typing import NamedTuple

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.ingest.store import SlideStore

MAX_GROUPS = 200
"""More cannot be told apart on a screen; a column with more is usually one of ids or of measurements."""
PASSED = "pass"
_FIRST_COLOURS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (188, 189, 34),
    (23, 190, 207),
    (127, 127, 127),
)
_GOLDEN = 0.618033988749895


class ExportError(PastError, ValueError):
    """A slide store that cannot be exported as asked."""


class Groups(NamedTuple):
    """Groups of cells.

    Attributes:
        codes: (n_cells,) index into `names`, -1 for a cell without a group.
        names: What they are called.
        colours: Red, green and blue of each, 0 to 255.
    """

    codes: np.ndarray
    names: list[str]
    colours: list[tuple[int, int, int]]


def cell_groups(store: SlideStore, column: str | None) -> Groups:
    """Groups the cells of a store by a column of its table.

    Args:
        store: The slide.
        column: Of `obs`: categories, text, true and false, or whole numbers (clusters). None groups by
            quality: `pass`, or the reasons why a cell fails.

    Raises:
        ExportError: There is no such column, it holds measurements, or more than `MAX_GROUPS` groups.
    """
    if column is None:
        reasons = store.obs["qc_reason"].astype(str).to_numpy()
        values = pd.Series(np.where(store.passed, PASSED, np.where(reasons == "", "fail", reasons)))
        first = [PASSED]
    else:
        values, first = _column(store, column), []
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.cat.remove_unused_categories()
        names = [str(name) for name in values.cat.categories]
        codes = values.cat.codes.to_numpy(np.int64)
    else:
        found = values.dropna().unique().tolist()
        ordered = first + sorted((value for value in found if value not in first), key=_sort_key)
        codes = pd.Categorical(values, categories=ordered).codes.astype(np.int64)
        names = [str(name) for name in ordered]
    if len(names) > MAX_GROUPS:
        raise ExportError(
            f"{store.path}: column {column!r} has {len(names):,} groups ({', '.join(names[:3])}, ...), at "
            f"most {MAX_GROUPS} are exported; choose a column of cell types or clusters"
        )
    return Groups(codes, names, colours(len(names)))


def _column(store: SlideStore, column: str) -> pd.Series:
    obs = store.obs
    if column not in obs:
        usable = [name for name in obs if not pd.api.types.is_float_dtype(obs[name])]
        raise ExportError(
            f"{store.path}: the table of cells has no column {column!r}; it has {', '.join(usable)}. Add one "
            "with `past ingest --annotations`"
        )
    values = obs[column].reset_index(drop=True)
    if pd.api.types.is_float_dtype(values):
        whole = values.dropna()
        if (whole != np.rint(whole)).any() or whole.nunique() > MAX_GROUPS:
            raise ExportError(
                f"{store.path}: column {column!r} holds measurements (from {values.min():g} to "
                f"{values.max():g}), not groups; QuPath colours cells by measurements of its own accord"
            )
        values = values.astype("Int64")
    return values


def _sort_key(value: object) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | np.integer) else (1, 0.0, str(value))


def colours(number: int) -> list[tuple[int, int, int]]:
    """As many colours as are asked for, the first ten well apart, the rest by turning the hue."""
    more = []
    for index in range(max(0, number - len(_FIRST_COLOURS))):
        level = 0.95 - 0.3 * (index % 3) / 2
        rgb = colorsys.hsv_to_rgb((0.1 + index * _GOLDEN) % 1, 0.55 + 0.2 * (index % 2), level)
        more.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return [*_FIRST_COLOURS, *more][:number]


def native_scale(store: SlideStore) -> float:
    """Pixels of the H&E file per level-0 pixel of the store; not 1 after `past ingest --target-mpp`."""
    resampled = (store.manifest.get("report") or {}).get("target_mpp") or {}
    native = resampled.get("native")
    return store.mpp / float(native) if native else 1.0
