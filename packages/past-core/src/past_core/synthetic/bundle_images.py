"""Images of a synthetic bundle: morphology (DAPI) and H&E as pyramidal OME-TIFF."""

from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from past_core.synthetic.bundle_cells import Segmentation

TILE = 512
LEAST_LEVEL = 256
"""A pyramid ends with the first level whose longer side is at most this many pixels."""


def halve(image: np.ndarray) -> np.ndarray:
    """Mean over 2x2 pixels of the first two axes; an odd last row or column is dropped."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    image = image[:height, :width]
    total = image[::2, ::2].astype(np.uint32)
    for part in (image[1::2, ::2], image[::2, 1::2], image[1::2, 1::2]):
        total += part
    return ((total + 2) // 4).astype(image.dtype)


def write_ome_tiff(
    path: Path, image: np.ndarray, *, mpp: float, axes: str, channels: list[str], z_step: float | None = None
) -> None:
    """Writes a tiled, deflated OME-TIFF whose coarser levels are SubIFDs.

    Args:
        path: The file.
        image: (H, W, 3) uint8 for axes YXS, (H, W) for YX or (Z, H, W) for ZYX.
        mpp: Micrometres of a pixel, written as PhysicalSizeX and PhysicalSizeY.
        axes: OME axes of `image`.
        channels: Names of the channels.
        z_step: Micrometres between planes, for axes ZYX.
    """
    metadata = {
        "axes": axes,
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": channels if axes != "YXS" else channels[0]},
    }
    if z_step is not None:
        metadata |= {"PhysicalSizeZ": z_step, "PhysicalSizeZUnit": "µm"}
    levels = []
    plane = image if z_step is None else np.moveaxis(image, 0, -1)
    while max(plane.shape[:2]) > LEAST_LEVEL:
        plane = halve(plane)
        levels.append(plane if z_step is None else np.moveaxis(plane, -1, 0))
    options = {
        "tile": (TILE, TILE),
        "photometric": "rgb" if axes == "YXS" else "minisblack",
        "compression": "adobe_deflate",
        "compressionargs": {"level": 1},
        "predictor": True,
        "resolutionunit": "CENTIMETER",
    }
    with tifffile.TiffWriter(path, ome=True) as writer:
        resolution = (1e4 / mpp, 1e4 / mpp)
        writer.write(image, subifds=len(levels), resolution=resolution, metadata=metadata, **options)
        for number, level in enumerate(levels, start=1):
            coarser = tuple(value / 2**number for value in resolution)
            writer.write(level, subfiletype=1, resolution=coarser, **options)


def render_dapi(segmentation: Segmentation, *, rng: np.random.Generator) -> np.ndarray:
    """A fluorescence image of the nuclei: blurred, with intensities of its own per nucleus and noise.

    Returns:
        (H, W) uint16 in morphology pixels.
    """
    intensity = np.concatenate(
        [[0.0], rng.lognormal(np.log(1800), 0.25, size=segmentation.nucleus_cell.size)]
    )
    clean = intensity.astype(np.float32)[segmentation.nucleus_mask]
    blurred = ndimage.gaussian_filter(clean, 2.0, truncate=2.0)
    noise = rng.standard_normal(blurred.shape, dtype=np.float32)
    image = 120 + blurred + 0.6 * np.sqrt(100 + blurred) * noise
    return np.clip(image, 0, 65_535).astype(np.uint16)


def focus_stack(plane: np.ndarray, n_planes: int) -> np.ndarray:
    """(n_planes, H, W) uint16: the plane in focus in the middle, blurred away from it."""
    middle = n_planes // 2
    return np.stack([ndimage.uniform_filter(plane, 1 + 4 * abs(index - middle)) for index in range(n_planes)])
