"""A known misalignment between two sections of one tissue: shift, rotation and a smooth elastic field."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from past_core.synthetic.cohort import SyntheticError, TissueConfig
from past_core.synthetic.seeding import Field, generator, smooth_field

SHARES = (0.6, 0.15, 0.25)
"""Of the mean square displacement: what the shift, the rotation and the elastic field have."""

ELASTIC_UM = 60.0
"""Standard deviation of the kernel that makes the elastic field smooth."""


@dataclass(frozen=True)
class Misalignment:
    """Where the other section shows the tissue: its point p shows the reference's point p + displacement(p).

    Args:
        shift_um: (2,) along y and x.
        angle: Rotation about the middle, in radians, from x towards y.
        elastic: Two fields in µm, along y and x.
        size_um: Side of the square section.
    """

    shift_um: np.ndarray
    angle: float
    elastic: tuple[Field, Field]
    size_um: float

    def displacement(self, shape: tuple[int, int], mpp: float) -> np.ndarray:
        """Displacement at the pixel centres, (2, H, W) float32 in µm, along y and along x."""
        y = ((np.arange(shape[0], dtype=np.float32) + 0.5) * mpp - self.size_um / 2)[:, None]
        x = (np.arange(shape[1], dtype=np.float32) + 0.5) * mpp - self.size_um / 2
        cosine, sine = np.float32(np.cos(self.angle) - 1), np.float32(np.sin(self.angle))
        field = np.stack([part.image(shape, mpp) for part in self.elastic])
        field[0] += cosine * y + sine * x + np.float32(self.shift_um[0])
        field[1] += cosine * x - sine * y + np.float32(self.shift_um[1])
        return field


def draw_misalignment(config: TissueConfig, *, rms_um: float) -> Misalignment:
    """Draws a misalignment of a given size; its directions are the same at every size.

    Args:
        config: The slide, which keys the randomness.
        rms_um: Root mean square length of the displacement over the slide, in µm.

    Raises:
        SyntheticError: The size is negative, or so large that the sections hardly overlap.
    """
    if not 0 <= rms_um <= config.size_um / 4:
        raise SyntheticError(
            f"misalignment_um is {rms_um}; it must lie in [0, {config.size_um / 4:g}], a quarter of the side"
        )
    stream = generator(config, "misalignment")
    shift, rotation, elastic = rms_um * np.sqrt(SHARES)
    way = stream.uniform(0, 2 * np.pi)
    sign = stream.choice([-1.0, 1.0])
    # A turn by θ moves a square's points by θ · distance from its middle: on average by θ · side / √6.
    angle = sign * rotation * np.sqrt(6) / config.size_um
    step = min(6.0, config.size_um / 40)
    fields = [
        smooth_field(stream, config.size_um, scale_um=min(ELASTIC_UM, config.size_um / 5), step_um=step)
        for _ in range(2)
    ]
    waves = [Field(field.nodes * elastic / np.sqrt(2), step) for field in fields]
    return Misalignment(
        shift * np.array([np.sin(way), np.cos(way)]), float(angle), (waves[0], waves[1]), config.size_um
    )


def warp(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Looks an image up at displaced points, by cubic splines; beyond its edge it is mirrored.

    Args:
        image: (C, H, W) float32.
        displacement: (2, H, W) in pixels, along y and x.

    Returns:
        (C, H, W) float32, within the range of the image's values.
    """
    height, width = image.shape[1:]
    rows = displacement[0] + np.arange(height, dtype=np.float32)[:, None]
    columns = displacement[1] + np.arange(width, dtype=np.float32)
    out = np.empty_like(image)
    for channel, source in enumerate(image):
        scipy.ndimage.map_coordinates(source, (rows, columns), out[channel], order=3, mode="reflect")
        np.clip(out[channel], source.min(), source.max(), out=out[channel])
    return out
