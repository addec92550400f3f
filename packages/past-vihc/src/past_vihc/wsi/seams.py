"""Do seams show? Gradients across the lines where windows meet, against everywhere else."""

import numpy as np

from past_core.errors import PastError


class SeamError(PastError, ValueError):
    """An image or lines that no seam can be measured on."""


def seam_ratio(
    image: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    mask: np.ndarray | None = None,
) -> float:
    """Mean gradient magnitude across lines over the mean everywhere else; 1 where no seam shows.

    The gradient between two neighbouring pixels is the absolute difference of their means over the channels.
    Differences between rows and between columns are weighed by their numbers.

    Args:
        image: `(3, H, W)` uint8.
        rows: first row below each horizontal line.
        columns: first column right of each vertical line.
        mask: `(H, W)` bool: pixels that count; a gradient counts where both its pixels do.

    Returns:
        the ratio; infinite where gradients lie on the lines alone, 1 where there are none at all.

    Raises:
        SeamError: no gradient on, or none beside, the lines.
    """
    grey = image.astype(np.float32).mean(axis=0)
    on = off = 0.0
    n_on = n_off = 0
    for axis, lines in ((0, rows), (1, columns)):
        gradient = np.abs(np.diff(grey, axis=axis))
        counts = np.ones(gradient.shape, bool)
        if mask is not None:
            both = np.moveaxis(mask, axis, 0)
            counts = np.moveaxis(both[1:] & both[:-1], 0, axis)
        here = np.zeros(gradient.shape[axis], bool)
        here[np.asarray(lines, np.int64) - 1] = True
        here = here[:, None] if axis == 0 else here[None, :]
        on += float(gradient[counts & here].sum(dtype=np.float64))
        off += float(gradient[counts & ~here].sum(dtype=np.float64))
        n_on += int(np.count_nonzero(counts & here))
        n_off += int(np.count_nonzero(counts & ~here))
    if not n_on or not n_off:
        raise SeamError(
            f"an image of {grey.shape[0]} x {grey.shape[1]} px with {len(rows)} + {len(columns)} lines has "
            f"{n_on} gradients that count on them and {n_off} beside them; both are needed"
        )
    if off == 0:
        return 1.0 if on == 0 else float("inf")
    return (on / n_on) / (off / n_off)
