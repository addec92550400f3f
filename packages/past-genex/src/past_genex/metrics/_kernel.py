"""One pass over a batch on the CPU, and merging: moments of predictions and truths by gene (numba)."""

import numba
import numpy as np

BLOCK = 512
"""Genes at a time: five sums of a block stay in the first-level cache while rows stream past."""


@numba.njit(nogil=True, cache=True)
def batch_moments(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, int]:
    """Count, means and centred co-moments of a batch.

    Values are shifted by the mean of a few rows before they are summed, so that nothing cancels. Blocks of
    genes in which something is not finite are done again with a mask of the measured truths, in two passes.

    Args:
        predicted: `(n, G)` float32 or float64, C order, n > 0.
        truth: `(n, G)`; NaN is not measured.

    Returns:
        `(6, G)` float64: n, means of predictions and truths, pp, tt, pt; and the first gene with a prediction
        that is not finite where the truth is measured, or with an infinite truth; -1 where there is none.
    """
    genes = predicted.shape[1]
    out = np.zeros((6, genes))
    bad = -1
    for start in range(0, genes, BLOCK):
        stop = min(start + BLOCK, genes)
        _plain(predicted, truth, out, start, stop)
        finite = True
        for j in range(start, stop):
            finite &= np.isfinite(out[3, j]) and np.isfinite(out[4, j])
        if not finite:
            found = _masked(predicted, truth, out, start, stop)
            if bad < 0:
                bad = found
    return out, bad


@numba.njit(nogil=True, cache=True)
def _plain(p: np.ndarray, t: np.ndarray, out: np.ndarray, start: int, stop: int) -> None:
    n, width = p.shape[0], stop - start
    shift_p, shift_t = np.zeros(width), np.zeros(width)
    few = min(8, n)
    for k in range(few):
        i = k * n // few
        for j in range(width):
            shift_p[j] += np.float64(p[i, start + j]) / few
            shift_t[j] += np.float64(t[i, start + j]) / few
    sums = np.zeros((5, width))
    even = n - n % 4
    for i in range(0, even, 4):
        # Four rows for each load and store of the sums; no reassociation is needed for SIMD over genes.
        for j in range(width):
            a, b = shift_p[j], shift_t[j]
            p0, t0 = np.float64(p[i, start + j]) - a, np.float64(t[i, start + j]) - b
            p1, t1 = np.float64(p[i + 1, start + j]) - a, np.float64(t[i + 1, start + j]) - b
            p2, t2 = np.float64(p[i + 2, start + j]) - a, np.float64(t[i + 2, start + j]) - b
            p3, t3 = np.float64(p[i + 3, start + j]) - a, np.float64(t[i + 3, start + j]) - b
            sums[0, j] += (p0 + p1) + (p2 + p3)
            sums[1, j] += (t0 + t1) + (t2 + t3)
            sums[2, j] += (p0 * p0 + p1 * p1) + (p2 * p2 + p3 * p3)
            sums[3, j] += (t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)
            sums[4, j] += (p0 * t0 + p1 * t1) + (p2 * t2 + p3 * t3)
    for i in range(even, n):
        for j in range(width):
            x = np.float64(p[i, start + j]) - shift_p[j]
            y = np.float64(t[i, start + j]) - shift_t[j]
            sums[0, j] += x
            sums[1, j] += y
            sums[2, j] += x * x
            sums[3, j] += y * y
            sums[4, j] += x * y
    for j in range(width):
        a, b = sums[0, j] / n, sums[1, j] / n
        out[0, start + j] = n
        out[1, start + j] = shift_p[j] + a
        out[2, start + j] = shift_t[j] + b
        out[3, start + j] = max(sums[2, j] - n * a * a, 0.0)
        out[4, start + j] = max(sums[3, j] - n * b * b, 0.0)
        out[5, start + j] = sums[4, j] - n * a * b


@numba.njit(nogil=True, cache=True)
def _masked(p: np.ndarray, t: np.ndarray, out: np.ndarray, start: int, stop: int) -> int:
    n, bad = p.shape[0], -1
    out[:, start:stop] = 0.0
    for i in range(n):
        for j in range(start, stop):
            if not np.isnan(t[i, j]):
                out[0, j] += 1.0
                out[1, j] += np.float64(p[i, j])
                out[2, j] += np.float64(t[i, j])
    for j in range(start, stop):
        if out[0, j] > 0:
            out[1, j] /= out[0, j]
            out[2, j] /= out[0, j]
            if bad < 0 and not (np.isfinite(out[1, j]) and np.isfinite(out[2, j])):
                bad = j
    for i in range(n):
        for j in range(start, stop):
            if not np.isnan(t[i, j]):
                x, y = np.float64(p[i, j]) - out[1, j], np.float64(t[i, j]) - out[2, j]
                out[3, j] += x * x
                out[4, j] += y * y
                out[5, j] += x * y
    return bad


@numba.njit(nogil=True, cache=True)
def merge_two(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Moments of two disjoint sets of cells, `(6, G)` each, as those of their union (Chan et al. 1983).

    Here and not in torch, whose threads would meet once an operation: on busy cores they wait for each other
    far longer than this takes.
    """
    out = np.zeros_like(first)
    for j in range(first.shape[1]):
        n = first[0, j] + second[0, j]
        if n == 0:
            continue
        share = second[0, j] / n
        dp, dt = second[1, j] - first[1, j], second[2, j] - first[2, j]
        if first[0, j] == 0:
            share, dp, dt = 0.0, 0.0, 0.0
            out[1, j], out[2, j] = second[1, j], second[2, j]
        elif second[0, j] == 0:
            dp, dt = 0.0, 0.0
            out[1, j], out[2, j] = first[1, j], first[2, j]
        else:
            out[1, j], out[2, j] = first[1, j] + share * dp, first[2, j] + share * dt
        out[0, j] = n
        between = first[0, j] * share
        out[3, j] = first[3, j] + second[3, j] + between * dp * dp
        out[4, j] = first[4, j] + second[4, j] + between * dt * dt
        out[5, j] = first[5, j] + second[5, j] + between * dp * dt
    return out
