"""The morphology frame of a synthetic bundle: its relation to the H&E, masks in it, keypoints.

Both frames are continuous: the origin is the outer corner of the top-left pixel, x to the right, y down,
and the centre of the pixel in row r and column c is (c + 0.5, r + 0.5). A matrix between the frames maps
such coordinates, so that `micrometres = morphology pixels * pixel_size` without a half-pixel offset.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

PIXEL_SIZE = 0.2125
"""Micrometres of a morphology pixel of the instrument."""

KEYPOINT_HEADER = "fixedX,fixedY,alignmentX,alignmentY"


@dataclass(frozen=True)
class MorphologyFrame:
    """Where the morphology image lies relative to the H&E.

    Attributes:
        matrix: (3, 3) float64, [x, y, 1] in H&E pixels -> [x, y, 1] in morphology pixels.
        shape: Height and width of the morphology image in pixels.
        pixel_size: Micrometres of a morphology pixel.
    """

    matrix: np.ndarray
    shape: tuple[int, int]
    pixel_size: float = PIXEL_SIZE

    @property
    def inverse(self) -> np.ndarray:
        """(3, 3) float64, morphology pixels -> H&E pixels."""
        return np.linalg.inv(self.matrix)


def morphology_frame(
    he_shape: tuple[int, int],
    *,
    mpp: float,
    rotation_deg: float,
    margin: tuple[float, float] = (23.0, 41.0),
    pixel_size: float = PIXEL_SIZE,
) -> MorphologyFrame:
    """Rotates the H&E, scales it to the morphology's pixels and shifts it into a frame that holds all of it.

    Args:
        he_shape: Height and width of the H&E in pixels.
        mpp: Micrometres of an H&E pixel.
        rotation_deg: Angle from the H&E's x axis to where it points in the morphology frame (x towards y).
        margin: Empty morphology pixels (x, y) around the rotated H&E; also the shift's odd part.
        pixel_size: Micrometres of a morphology pixel.
    """
    angle, scale = np.deg2rad(rotation_deg), mpp / pixel_size
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    height, width = he_shape
    corners = linear @ np.array([[0, width, 0, width], [0, 0, height, height]], dtype=float)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.asarray(margin) - corners.min(axis=1)
    extent = np.ceil(corners.max(axis=1) - corners.min(axis=1) + 2 * np.asarray(margin)).astype(int)
    return MorphologyFrame(matrix, (int(extent[1]), int(extent[0])), pixel_size)


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Applies a (3, 3) affine matrix to (N, 2) points (x, y)."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def resample_labels(masks: tuple[np.ndarray, ...], frame: MorphologyFrame) -> tuple[np.ndarray, ...]:
    """Moves label images of the H&E frame into the morphology frame by nearest neighbour.

    Every morphology pixel takes the label of the H&E pixel that its centre falls into; outside it is 0.

    Args:
        masks: Label images of one shape (H, W), uint32.
        frame: The morphology frame.

    Returns:
        One uint32 label image of `frame.shape` for each mask.
    """
    height, width = masks[0].shape
    rows, columns = frame.shape
    inverse = frame.inverse
    outputs = tuple(np.zeros(frame.shape, dtype=np.uint32) for _ in masks)
    x = np.arange(columns) + 0.5
    band = max(1, 2**20 // columns)  # about a million pixels at a time stay in the cache
    for start in range(0, rows, band):
        y = np.arange(start, min(start + band, rows))[:, None] + 0.5
        source_x = inverse[0, 0] * x + (inverse[0, 1] * y + inverse[0, 2])
        source_y = inverse[1, 0] * x + (inverse[1, 1] * y + inverse[1, 2])
        inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
        # Inside, truncation is floor; outside, the clipped index is masked away.
        column = np.clip(source_x, 0, width - 1).astype(np.int64)
        row = np.clip(source_y, 0, height - 1).astype(np.int64)
        flat = row * width + column
        for mask, output in zip(masks, outputs, strict=True):
            output[start : start + band] = mask.ravel()[flat] * inside
    return outputs


def pixels_by_label(mask: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups the pixels of a label image by label.

    Args:
        mask: (H, W) labels 1..n_labels, 0 is background.
        n_labels: Largest label.

    Returns:
        (indptr, pixels): the flat pixel indices of label k are `pixels[indptr[k - 1]:indptr[k]]`, ascending.
    """
    flat = mask.ravel()
    pixels = np.flatnonzero(flat)
    # Coordinate to compressed rows is a counting sort, many times faster than argsort here.
    grouped = sparse.coo_matrix(
        (pixels, (flat[pixels].astype(np.int64) - 1, np.arange(pixels.size))),
        shape=(n_labels, max(pixels.size, 1)),
    ).tocsr()
    return grouped.indptr.astype(np.int64), grouped.data


def keypoint_regions(
    points: np.ndarray,
    frame: MorphologyFrame,
    *,
    mpp: float,
    rng: np.random.Generator,
    n_regions: int = 3,
    n_points: int = 12,
    noise_um: float = 0.5,
) -> list[np.ndarray]:
    """Picks matched points in distinct regions of the slide, as a person would in Xenium Explorer.

    The regions are vertical strips of the H&E; within one, points are drawn without replacement. Each
    coordinate on both sides carries Gaussian picking noise.

    Args:
        points: (N, 2) true positions of landmarks (nuclei) in H&E pixels.
        frame: The morphology frame.
        mpp: Micrometres of an H&E pixel.
        rng: Source of randomness.
        n_regions: Number of strips, one array each.
        n_points: Most points of a region.
        noise_um: Standard deviation of the noise of each coordinate on each side, micrometres.

    Returns:
        For each region (n, 4) float64: fixedX, fixedY (morphology px), alignmentX, alignmentY (H&E px).
    """
    strips = np.array_split(np.argsort(points[:, 0], kind="stable"), n_regions)
    regions = []
    for strip in strips:
        picked = points[rng.choice(strip, size=min(n_points, strip.size), replace=False)]
        fixed = transform_points(frame.matrix, picked)
        fixed = fixed + rng.normal(0, noise_um / frame.pixel_size, fixed.shape)
        regions.append(np.hstack([fixed, picked + rng.normal(0, noise_um / mpp, picked.shape)]))
    return regions
