"""Small pairs of images with nuclei at known places, for the tests of the data."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

MPP = 0.5
H, EOSIN, DAB = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11]), np.array([0.27, 0.57, 0.78])


def made_pair(seed: int, height: int = 160, width: int = 160) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H&E, IHC `(3, H, W)` uint8 and labels `(H, W)` int32 of about one nucleus in 12 px squared."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    centres = [
        (row + rng.uniform(-2, 2), column + rng.uniform(-2, 2))
        for row in range(8, height, 18)
        for column in range(8, width, 18)
    ]
    for number, (row, column) in enumerate(centres, start=1):
        labels[(y - row) ** 2 + (x - column) ** 2 < 30] = number
    nuclei = ndimage.gaussian_filter((labels > 0).astype(float), 0.6)
    texture = ndimage.gaussian_filter(rng.normal(size=(height, width)), 1.5)
    eosin = 0.25 + 0.2 * texture
    positive = np.isin(labels, 1 + np.flatnonzero(rng.random(len(centres)) < 0.5))
    brown = ndimage.gaussian_filter(positive.astype(float), 0.6)
    he = _light(0.8 * nuclei[None] * _unit(H) + eosin[None] * _unit(EOSIN))
    ihc = _light(0.2 * nuclei[None] * _unit(H) + 0.5 * brown[None] * _unit(DAB) + 0.08 * _unit(H))
    noise = rng.normal(scale=2, size=he.shape)
    return (*tuple(np.clip(np.round(image + noise), 0, 255).astype(np.uint8) for image in (he, ihc)), labels)


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector))[:, None, None]


def _light(density: np.ndarray) -> np.ndarray:
    return 245 * 10.0 ** -np.maximum(density, 0)


def write_image(path: Path, image: np.ndarray, *, mpp: float | None = MPP) -> Path:
    """Writes `(3, H, W)` as PNG, which states no resolution, or as TIFF, which does where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path, compress_level=1)
    else:
        stated = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, pixels, photometric="rgb", **stated)
    return path


def write_labels(path: Path, labels: np.ndarray) -> Path:
    """Writes `(H, W)` labels as TIFF or `.npy`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, labels)
    else:
        tifffile.imwrite(path, labels.astype(np.uint16), compression="zlib")
    return path


def write_cases(
    root: Path, cases: int = 4, *, stains: tuple[str, ...] = ("er",), nuclei: bool = True, size: int = 160
) -> Path:
    """A folder CASE/he.tif, CASE/ihc_STAIN.tif, CASE/nuclei.tif for each case C0, C1, …"""
    for number in range(cases):
        he, ihc, labels = made_pair(number, size, size)
        folder = root / f"C{number}"
        write_image(folder / "he.tif", he)
        for shift, stain in enumerate(stains):
            write_image(folder / f"ihc_{stain}.tif", np.roll(ihc, shift, axis=0))
        if nuclei:
            write_labels(folder / "nuclei.tif", labels)
    return root
