"""Simplified outlines of the labels of a mask, as Xenium bundles carry them."""

import numpy as np
from scipy import ndimage
from skimage import measure

VERTICES = 25
"""Vertices of an outline, the first repeated at the end; bundles of the instrument have 13 to 25."""


def trace_polygons(mask: np.ndarray, n_labels: int) -> np.ndarray:
    """Traces each label's outer contour and spaces `VERTICES` points evenly along it.

    The outline is a simplification (a few per cent smaller than the mask where it is round); of a label
    in several pieces it follows the longest contour.

    Args:
        mask: (H, W) labels 1..n_labels.
        n_labels: Number of labels.

    Returns:
        (n_labels, VERTICES, 2) float64 (x, y) in continuous pixel coordinates, closed; NaN for a label
        without pixels.
    """
    polygons = np.full((n_labels, VERTICES, 2), np.nan)
    steps = np.linspace(0, 1, VERTICES)
    for index, window in enumerate(ndimage.find_objects(mask.astype(np.int32), max_label=n_labels)):
        if window is None:
            continue
        rows, columns = window
        inside = np.zeros((rows.stop - rows.start + 2, columns.stop - columns.start + 2))
        inside[1:-1, 1:-1] = mask[window] == index + 1
        contour = max(measure.find_contours(inside, 0.5), key=len)
        lengths = np.hypot(*np.diff(contour, axis=0).T)
        position = np.concatenate([[0.0], np.cumsum(lengths)])
        at = steps * position[-1]
        # Contours are in pixel-centre indices of the padded crop: -1 for the padding, + 0.5 for the corner.
        polygons[index, :, 0] = np.interp(at, position, contour[:, 1]) + (columns.start - 0.5)
        polygons[index, :, 1] = np.interp(at, position, contour[:, 0]) + (rows.start - 0.5)
        polygons[index, -1] = polygons[index, 0]
    return polygons
