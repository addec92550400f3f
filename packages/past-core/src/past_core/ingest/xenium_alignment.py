"""The 3x3 matrix between H&E pixels and morphology pixels that comes with a Xenium bundle."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from past_core.ingest.xenium_files import BundleError, require_file

KEYPOINT_COLUMNS = {"fixedX", "fixedY", "alignmentX", "alignmentY"}
OME_SUFFIX = ".ome.tif"
ALIGNMENT_SUFFIX = "alignment.csv"


@dataclass(frozen=True)
class Alignment:
    """A checked alignment.

    Both frames are continuous: the origin is the outer corner of the top-left pixel, so that the centre of
    the pixel in row r and column c is (c + 0.5, r + 0.5). Then µm = morphology pixels x pixel size holds as
    it does in the bundle's tables, and no half pixel is lost on the way.

    Attributes:
        matrix: (3, 3) float64, [x, y, 1] in full-resolution H&E pixels -> the same in morphology pixels.
        undo: Where the matrix alone puts what a local correction has put at (N, 2) morphology pixels; None
            without a correction.
    """

    matrix: np.ndarray
    undo: Callable[[np.ndarray], np.ndarray] | None = field(default=None, compare=False)

    @property
    def scale(self) -> float:
        """Morphology pixels of one H&E pixel: the square root of the area's factor."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:2, :2]))))

    @property
    def anisotropy(self) -> float:
        """Ratio of the larger to the smaller scale; 1 for a similarity."""
        larger, smaller = np.linalg.svd(self.matrix[:2, :2], compute_uv=False)
        return float(larger / smaller)

    @property
    def rotation_deg(self) -> float:
        """Angle of the H&E's x axis in the morphology frame, x towards y."""
        return float(np.degrees(np.arctan2(self.matrix[1, 0], self.matrix[0, 0])))

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Maps (N, 2) morphology pixels (x, y) to H&E pixels."""
        inverse = np.linalg.inv(self.matrix)
        if self.undo is not None:
            points = self.undo(points)
        return points @ inverse[:2, :2].T + inverse[:2, 2]


def alignment_beside(he: Path) -> Path | None:
    """The vendor's name for an image's alignment: X.ome.tif -> Xalignment.csv; None for another suffix."""
    if not he.name.endswith(OME_SUFFIX):
        return None
    return he.with_name(he.name.removesuffix(OME_SUFFIX) + ALIGNMENT_SUFFIX)


def read_alignment(path: Path) -> Alignment:
    """Reads a 3x3 matrix, comma-separated without a header.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: A keypoint file, not 3x3 numbers, not affine, or singular.
    """
    require_file(path, "the 3x3 alignment matrix of the H&E (CSV without a header)")
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BundleError(f"{path} is not a readable CSV ({error})") from error
    if {cell.strip() for cell in rows[0]} >= KEYPOINT_COLUMNS if rows else False:
        raise BundleError(
            f"{path} holds keypoints ({', '.join(rows[0])}), not a matrix: expected 3 rows of 3 numbers. "
            "Xenium Explorer exports the matrix beside the keypoints (matrix.csv or *_matrix.csv): pass that"
        )
    shape = f"{len(rows)} rows of {sorted({len(row) for row in rows})} values"
    if len(rows) != 3 or any(len(row) != 3 for row in rows):
        raise BundleError(f"{path} holds {shape}, expected a 3x3 matrix without a header")
    matrix = np.empty((3, 3))
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            try:
                matrix[i, j] = float(cell)
            except ValueError:
                raise BundleError(f"{path}: row {i}, column {j} is {cell!r}, expected a number") from None
    return check_matrix(matrix, path)


def check_matrix(matrix: np.ndarray, path: Path | str) -> Alignment:
    """Checks that a (3, 3) matrix is finite, affine and not singular.

    Raises:
        BundleError: It is not; `path` names where it came from.
    """
    if not np.isfinite(matrix).all():
        raise BundleError(f"{path}: the alignment matrix holds values that are not finite: {matrix.tolist()}")
    if not np.allclose(matrix[2], (0, 0, 1)):
        raise BundleError(
            f"{path}: the last row of the alignment matrix is {matrix[2].tolist()}, expected 0, 0, 1"
        )
    larger, smaller = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if smaller <= 1e-6 * larger or larger == 0:
        raise BundleError(
            f"{path}: the alignment matrix is singular (scales {larger:.3g} and {smaller:.3g}), so that it "
            "maps the H&E onto a line; export the alignment again"
        )
    return Alignment(matrix)
