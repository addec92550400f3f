"""Rings out of well-known binary, as arrays: a million outlines are never a million objects."""

import struct

import numpy as np
import pyarrow as pa

from past_core.errors import PastError

POINT, POLYGON, MULTIPOLYGON = 1, 3, 6
_HEADER = 13
"""Bytes before a polygon's first point: byte order, type, number of rings, points of the first ring."""


class OutlineError(PastError, ValueError):
    """Outlines that cannot be read."""


def exterior_rings(column: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exterior rings of polygons and multipolygons.

    Args:
        column: (N,) binary, one geometry a row; rows that are null or empty give no ring.

    Returns:
        row: (P,) int64, the row each ring comes from, ascending.
        lengths: (P,) int64, its points.
        points: (V, 2) float64, ring after ring.

    Raises:
        OutlineError: A row is something else, or breaks off.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    column = column.cast(pa.large_binary())
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    start, size = offsets[:-1], np.diff(offsets)
    if not len(column) or not size.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2))
    data = np.frombuffer(column.buffers()[2], np.uint8)
    size = np.where(np.asarray(column.is_valid()), size, 0)
    plain, lengths = _plain(data, start, size)
    rows = np.flatnonzero(plain)
    # Bytes of each point: where its polygon's points begin, and 16 for each point before it.
    number = np.arange(lengths[rows].sum()) - np.repeat(
        np.cumsum(lengths[rows]) - lengths[rows], lengths[rows]
    )
    first = np.repeat(start[rows] + _HEADER, lengths[rows]) + 16 * number
    windows = np.lib.stride_tricks.sliding_window_view(data, 16) if len(data) >= 16 else np.zeros((0, 16))
    points = windows[first].view("<f8").astype(np.float64) if len(first) else np.zeros((0, 2))
    others = np.flatnonzero(~plain & (size > 0)).tolist()
    if not others:
        return rows, lengths[rows], points
    return _merged(rows, lengths[rows], points, [(k, ring) for k in others for ring in _rings(column[k], k)])


def points(column: pa.Array) -> np.ndarray:
    """The points of a column of points, `(N, 2)` float64.

    Raises:
        OutlineError: A row is no point.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    found = np.full((len(column), 2), np.nan)
    for k, value in enumerate(column.to_pylist()):
        if value is None or len(value) < 21 or _kind(value) % 1000 != POINT:
            raise OutlineError(f"row {k} is no point; a column `radius` goes with points alone")
        found[k] = struct.unpack_from(f"{_order(value)}2d", value, 5)
    return found


def is_point(value: bytes) -> bool:
    """Whether a geometry is a point."""
    return len(value) >= 5 and _kind(value) % 1000 == POINT


def _plain(data: np.ndarray, start: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are little-endian polygons in the plane, whole, and the points of their first ring."""
    lengths = np.zeros(len(start), np.int64)
    plain = size >= _HEADER
    rows = np.flatnonzero(plain)
    header = data[start[rows, None] + np.arange(_HEADER)] if len(rows) else np.zeros((0, _HEADER), np.uint8)
    kind, rings, count = np.ascontiguousarray(header[:, 1:]).view("<u4").astype(np.int64).T
    whole = (header[:, 0] == 1) & (kind == POLYGON) & (rings >= 1) & (_HEADER + 16 * count <= size[rows])
    plain[rows] = whole & (count > 0)
    lengths[rows[whole]] = count[whole]
    return plain, lengths


def _merged(
    rows: np.ndarray, lengths: np.ndarray, points: np.ndarray, more: list[tuple[int, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rings of two sources in the order of their rows."""
    all_rows = np.concatenate([rows, np.array([k for k, _ in more], np.int64)])
    all_lengths = np.concatenate([lengths, np.array([len(ring) for _, ring in more], np.int64)])
    all_points = np.concatenate([points, *(ring for _, ring in more)])
    order = np.argsort(all_rows, kind="stable")
    begin = (np.cumsum(all_lengths) - all_lengths)[order]
    taken = all_lengths[order]
    place = np.repeat(begin - (np.cumsum(taken) - taken), taken) + np.arange(taken.sum())
    return all_rows[order], taken, all_points[place]


def _order(value: bytes) -> str:
    return "<" if value[0] == 1 else ">"


def _kind(value: bytes, at: int = 0) -> int:
    """The type, with a thousand on top where there is a third coordinate."""
    (code,) = struct.unpack_from(f"{'<' if value[at] == 1 else '>'}I", value, at + 1)
    return (code & 0x0FFF_FFFF) + (1000 if code & 0x8000_0000 else 0)


def _rings(scalar: pa.Scalar, row: int) -> list[np.ndarray]:
    """Exterior rings of one geometry, step by step."""
    value = scalar.as_py()
    try:
        rings, _ = _walk(value, 0, row)
    except (struct.error, IndexError, ValueError) as error:
        if isinstance(error, OutlineError):
            raise
        raise OutlineError(f"row {row} breaks off ({len(value)} bytes of well-known binary)") from error
    return [ring for ring in rings if len(ring) >= 3]


def _walk(value: bytes, at: int, row: int) -> tuple[list[np.ndarray], int]:
    order, kind = "<" if value[at] == 1 else ">", _kind(value, at)
    dimensions = 3 if kind // 1000 in (1, 2) else 4 if kind // 1000 == 3 else 2
    if kind % 1000 not in (POLYGON, MULTIPOLYGON):
        raise OutlineError(
            f"row {row} is a geometry of type {kind}; expected polygons (3) or multipolygons (6)"
        )
    (count,) = struct.unpack_from(f"{order}I", value, at + 5)
    at, rings = at + 9, []
    for number in range(count):
        if kind % 1000 == MULTIPOLYGON:
            found, at = _walk(value, at, row)
            rings += found
            continue
        (length,) = struct.unpack_from(f"{order}I", value, at)
        if length * 8 * dimensions > len(value) - at - 4:
            raise OutlineError(f"row {row} breaks off ({len(value)} bytes of well-known binary)")
        ring = np.frombuffer(value, f"{order}f8", length * dimensions, at + 4).reshape(length, dimensions)
        if number == 0:
            rings.append(ring[:, :2].astype(np.float64))
        at += 4 + 8 * dimensions * length
    return rings, at
