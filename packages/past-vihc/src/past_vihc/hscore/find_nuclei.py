"""Where the nuclei come from: an IHC as a segmenter should see it, and the outlines of what was found."""

import numpy as np

from past_core.nuclei.tiles import NucleusTile
from past_core.slides import Slide
from past_core.stains import STAINS, StainSet, stain_set
from past_vihc.hscore.quantify import White, density_tables

CAP, DAB_SHARE, EOSIN = 0.5, 0.7, 0.1
"""Of `AsHaematoxylin`, in optical density."""
COLOURED, DARK = 8, 230
"""Tissue differs this much between channels, or is darker than this in all of them; glass is neither."""


class AsHaematoxylin(Slide):
    """An IHC slide as a segmenter of H&E should see it: nuclei blue, whether they are stained blue or brown.

    Haematoxylin and 0.7 of DAB are added, capped at 0.5 so that brown nuclei do not outshine blue ones,
    and rendered in haematoxylin over a breath of eosin, by which pale tissue counts as tissue. Against
    haematoxylin alone, brown nuclei found (IoU 0.5) rise from 53 to 99 % on synthetic ER and from 28 to
    94 % on Ki67, F1 of all nuclei from 0.61 to 0.96. On DeepLIIF's tile F1 rises from 0.13 to 0.36, and
    from 0.33 to 0.64 once its masks are moved by the pixels that they lie beside its IHC.
    """

    def __init__(self, slide: Slide, *, stains: str | StainSet = "qupath-hdab", white: White = 255.0) -> None:
        super().__init__(slide.path, [(level.height, level.width) for level in slide.levels], slide.mpp)
        self._slide = slide
        inverse = np.linalg.inv(stain_set(stains).matrix)
        tables = density_tables(white)
        self._tables = [
            [(tables[channel] * inverse[channel, stain]).astype(np.float32) for channel in range(3)]
            for stain in (0, 1)
        ]
        blue, pink = STAINS["qupath-he"].matrix[:2]
        # 256 amounts of haematoxylin, on glass and then on tissue.
        steps = np.linspace(0, CAP, 256) * blue[:, None]
        density = np.concatenate([steps, steps + EOSIN * pink[:, None]], axis=1)
        self._colours = np.clip(np.rint(255 * 10**-density), 0, 255).astype(np.uint8)

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        image = self._slide.read(level, y, x, height, width)
        haematoxylin, dab = (
            table[0][image[0]] + table[1][image[1]] + table[2][image[2]] for table in self._tables
        )
        nuclear = np.maximum(haematoxylin, 0) + np.float32(DAB_SHARE) * np.maximum(dab, 0)
        step = np.rint(np.minimum(nuclear, CAP) * np.float32(255 / CAP)).astype(np.int16)
        low, high = image.min(axis=0), image.max(axis=0)
        tissue = (high - low >= COLOURED) | (high < DARK)
        return self._colours[:, step + 256 * tissue.astype(np.int16)]


def outlines(tile: NucleusTile) -> list[np.ndarray]:
    """Border of each owned nucleus in pixels of the view, `(k, 2)` x, y float32, an open ring.

    Half-way between a nucleus's pixels and others, without vertices on straight lines.
    """
    from scipy import ndimage
    from skimage.measure import find_contours

    boxes = ndimage.find_objects(tile.labels)
    rings = []
    for label in tile.owned:
        rows, columns = boxes[label - 1]
        mask = np.pad(tile.labels[rows, columns] == label, 1)
        ring = max(find_contours(mask.astype(np.float32), 0.5), key=len)[:-1]
        before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        bends = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
        ring = ring[bends] if bends.sum() >= 3 else ring
        corner = np.array([columns.start + tile.left - 0.5, rows.start + tile.top - 0.5])
        rings.append((ring[:, ::-1] + corner).astype(np.float32))
    return rings


def owned_labels(tile: NucleusTile) -> np.ndarray:
    """`(h, w)` int32: the tile's labels without those that other tiles own."""
    size = max(int(tile.labels.max(initial=0)), int(tile.owned.max(initial=0))) + 1
    keep = np.zeros(size, np.int32)
    keep[tile.owned] = tile.owned
    return keep[tile.labels]
