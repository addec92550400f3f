"""Holm's correction for several tests (Holm 1979)."""

import numpy as np


def holm(p: np.ndarray) -> np.ndarray:
    """Corrects `(m,)` p-values step down; NaN stays and does not count."""
    p = np.asarray(p, np.float64)
    out = np.full_like(p, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return out
