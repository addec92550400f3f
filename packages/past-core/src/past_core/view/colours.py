"""Colours of the layers: one source for tiles, legends and the page."""

import numpy as np

CELLS, NUCLEI = (255, 230, 0), (0, 229, 255)
"""As in the picture of `past info --overlay`."""

REASONS = (
    (230, 25, 75),
    (145, 30, 180),
    (0, 92, 230),
    (245, 130, 48),
    (0, 140, 110),
    (240, 50, 230),
    (128, 70, 20),
    (70, 70, 70),
    (170, 190, 0),
    (0, 0, 128),
    (255, 105, 145),
    (20, 170, 200),
)
"""Of cells that fail QC, by reason; more reasons begin again at the first."""

# Every fifth colour of matplotlib's viridis (CC0), joined by straight lines: within one grey value of it.
_VIRIDIS = np.frombuffer(
    bytes.fromhex(
        "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a3a538b38598c355e8d33638d"
        "31688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c"
        "35b7793dbc7446c06f50c46a5ac86465cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51d"
        "fde725"
    ),
    np.uint8,
).reshape(-1, 3)


def viridis(values: np.ndarray) -> np.ndarray:
    """Colours of numbers in [0, 1]; beyond, those of its ends.

    Args:
        values: (...) numbers.

    Returns:
        (..., 3) uint8.
    """
    place = np.clip(np.asarray(values, np.float64), 0, 1) * (len(_VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(_VIRIDIS)), channel) for channel in _VIRIDIS.T]
    return (np.stack(channels, axis=-1) + 0.5).astype(np.uint8)


def css(colour: tuple[int, int, int] | np.ndarray) -> str:
    """A colour as `#rrggbb`."""
    return "#" + bytes(int(channel) for channel in colour).hex()
