"""Where a Xenium bundle has nuclei, a window at a time: its nucleus masks, or its DAPI where it has none."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile

from past_core.errors import PastError
from past_core.ingest.xenium_files import BundleError, BundleNotFoundError
from past_core.ingest.xenium_layout import find_files
from past_core.ingest.xenium_masks import NUCLEUS, open_cells
from past_core.ingest.xenium_tables import read_cells, read_experiment
from past_core.slides.tiff import DAMAGE

logger = logging.getLogger(__name__)

MAX_WINDOW_PX = 2**26
"""Largest window of masks or DAPI, in pixels, that is read in one piece."""
DAPI_UM = 0.45
"""About the resolution at which nuclei are found in DAPI."""
DAPI_FILES = (
    "morphology_focus/morphology_focus_0000.ome.tif",
    "morphology_focus/ch0000_*.ome.tif",
    "morphology_focus.ome.tif",
    "morphology_mip.ome.tif",
)
"""Where the versions of the format keep the DAPI, newest layout of each first."""

Source = Literal["masks", "dapi"]


class NucleiImageError(PastError, ValueError):
    """A bundle whose nuclei cannot be read."""


class NucleiImage:
    """The nuclei of a bundle as an image that is read in windows; made by `open_nuclei`.

    Attributes:
        source: `masks`, or `dapi` where there are none.
        pixel_size: µm of a morphology pixel.
        cells_um: (N, 2) centroids of the cells in morphology µm, to see where there is tissue.
    """

    def __init__(self, source: Source, image: Any, *, pixel_size: float, cells_um: np.ndarray) -> None:
        self.source, self.pixel_size, self.cells_um = source, pixel_size, cells_um
        self._image = image
        self.height, self.width = image.shape

    def covers(self, points_um: np.ndarray) -> np.ndarray:
        """Whether there is a nucleus at points.

        Args:
            points_um: (..., 2) x, y in morphology µm, near one another: the box around them is read.

        Returns:
            (...) bool; False outside the image.

        Raises:
            NucleiImageError: The points lie too far apart to be one window, or the image is damaged.
        """
        pixels = np.floor(points_um / self.pixel_size).astype(np.int64)
        flat = pixels.reshape(-1, 2)
        x0, y0 = np.maximum(flat.min(axis=0) - 8, 0)
        x1, y1 = np.minimum(flat.max(axis=0) + 9, [self.width, self.height])
        if x1 <= x0 or y1 <= y0:
            return np.zeros(pixels.shape[:-1], dtype=bool)
        if (x1 - x0) * (y1 - y0) > MAX_WINDOW_PX:
            raise NucleiImageError(
                f"a window of {x1 - x0} x {y1 - y0} pixels of morphology; at most {MAX_WINDOW_PX}"
            )
        nuclei = self._nuclei(int(y0), int(y1), int(x0), int(x1))
        column, row = pixels[..., 0] - x0, pixels[..., 1] - y0
        inside = (column >= 0) & (row >= 0) & (column < x1 - x0) & (row < y1 - y0)
        return nuclei[np.clip(row, 0, y1 - y0 - 1), np.clip(column, 0, x1 - x0 - 1)] & inside

    def _nuclei(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        try:
            window = np.asarray(self._image[y0:y1, x0:x1])
        except DAMAGE as error:
            raise NucleiImageError(f"the {self.source} of the bundle are damaged: {error}") from error
        return window != 0 if self.source == "masks" else dapi_nuclei(window, pixel_size=self.pixel_size)


def dapi_nuclei(window: np.ndarray, *, pixel_size: float) -> np.ndarray:
    """Nuclei of a fluorescence image: threshold and watershed as for haematoxylin.

    Args:
        window: (H, W) DAPI.
        pixel_size: µm of a pixel.

    Returns:
        (H, W) bool.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    from past_core.nuclei import WatershedSettings, watershed_labels

    step = max(1, round(DAPI_UM / pixel_size))
    height, width = window.shape
    padded = np.pad(window, ((0, -height % step), (0, -width % step)), mode="edge").astype(np.float32)
    coarse = padded.reshape(padded.shape[0] // step, step, -1, step).mean(axis=(1, 3))
    mpp, settings = step * pixel_size, WatershedSettings()
    # Nuclei differ several fold in brightness; the square root brings them together.
    amount = np.sqrt(np.maximum(coarse - np.percentile(coarse, 1), 0))
    amount = ndimage.gaussian_filter(amount, settings.smooth_um / mpp, truncate=3.0)
    if not amount.min() < amount.max():
        return np.zeros(window.shape, dtype=bool)
    labels = watershed_labels(amount, mpp=mpp, threshold=float(threshold_otsu(amount)), settings=settings)
    return np.repeat(np.repeat(labels > 0, step, axis=0), step, axis=1)[:height, :width]


@contextmanager
def open_nuclei(bundle: Path) -> Iterator[NucleiImage]:
    """Opens the nuclei of a bundle for reading in windows.

    Raises:
        BundleNotFoundError: The bundle or its cells are not there.
        BundleError: The manifest or the table of cells is damaged.
        NucleiImageError: Neither nucleus masks nor a DAPI image can be read.
    """
    files = find_files(bundle)
    experiment = read_experiment(files.experiment)
    cells = read_cells(files.cells)[["x_centroid", "y_centroid"]].to_numpy(dtype=np.float64)
    common = {"pixel_size": experiment.pixel_size, "cells_um": cells[np.isfinite(cells).all(axis=1)]}
    with closing(ExitStack()) as stack:  # so that no reader here takes the caller's errors for its own
        masks_path = files.masks or bundle / "cells.zarr.zip"
        try:
            image = stack.enter_context(open_cells(masks_path)).array(f"masks/{NUCLEUS}", ndim=2)
            found = _holds_any(image, common["cells_um"] / experiment.pixel_size)
            problem = f"masks/{NUCLEUS} of {masks_path} is empty"
        except (BundleError, BundleNotFoundError, *DAMAGE) as error:
            found, problem = False, str(error)
        if not found:
            logger.warning("%s; finds nuclei in the DAPI image", problem)
            image = stack.enter_context(_open_dapi(bundle, problem))
        yield NucleiImage("masks" if found else "dapi", image, **common)


def _holds_any(mask: Any, cells_px: np.ndarray) -> bool:
    """Whether a mask has labels around a few of the cells."""
    for x, y in cells_px[:: max(1, len(cells_px) // 16)][:16].astype(np.int64):
        if np.any(np.asarray(mask[max(0, y - 64) : y + 64, max(0, x - 64) : x + 64])):
            return True
    return False


def dapi_files(bundle: Path) -> list[Path]:
    """A bundle's images of DAPI, the one that is read first."""
    return [
        path
        for pattern in DAPI_FILES
        for path in sorted(bundle.glob(pattern))
        if path.is_file() and not path.name.startswith("._")
    ]


@contextmanager
def _open_dapi(bundle: Path, problem: str) -> Iterator[Any]:
    import zarr

    found = dapi_files(bundle)
    if not found:
        raise NucleiImageError(
            f"{bundle} has no nuclei to compare with: {problem}; and there is no DAPI image "
            f"({', '.join(DAPI_FILES)}). Copy the bundle with cells.zarr.zip or morphology_focus"
        )
    try:
        tiff = tifffile.TiffFile(found[0], is_ome=False)
    except DAMAGE as error:
        raise NucleiImageError(f"{found[0]}: damaged or truncated TIFF: {error}") from error
    with tiff:
        try:
            # The first page alone: the channels of a multi-file OME-TIFF may lie elsewhere.
            image = zarr.open_array(tiff.pages[0].aszarr(), mode="r")
        except DAMAGE as error:
            raise NucleiImageError(f"{found[0]}: damaged or truncated TIFF: {error!r}") from error
        if image.ndim != 2 or image.dtype.kind not in "ui":
            raise NucleiImageError(
                f"{found[0]} holds {image.dtype} {image.shape}; expected one plane of DAPI in whole numbers"
            )
        yield image
