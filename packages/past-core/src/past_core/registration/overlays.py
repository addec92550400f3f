"""Pictures of the bundle's outlines over the H&E, at several places and zooms: seeing is believing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from past_core.ingest.xenium_layout import find_files
from past_core.registration.boundaries import Box, outlines_in
from past_core.registration.measure import Window
from past_core.registration.nuclei_points import NucleiImage
from past_core.registration.windows import Frame, choose_windows
from past_core.slides import Slide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE_UM, CLOSE_UM = 500.0, 120.0
"""Fields of the two zooms."""
LONGEST_PX = 1000
"""Largest side of a picture that is read."""
CELL_COLOUR, NUCLEUS_COLOUR = "#ffe600", "#00e5ff"
ALL = 256
"""Windows among which the places are chosen."""


class Place(NamedTuple):
    """A place to look at: its name and its middle in morphology µm."""

    name: str
    middle_um: np.ndarray


def choose_places(nuclei: NucleiImage, windows: Sequence[Window] = ()) -> list[Place]:
    """The tissue's corners, its centre, where it is densest, and where nuclei and image match worst.

    Args:
        nuclei: of the bundle.
        windows: measured around the registration that will be drawn.
    """
    middles, side = choose_windows(nuclei.cells_um, most=ALL)
    if not len(middles):
        return [Place("centre", nuclei.cells_um.mean(axis=0))]
    low, high = middles.min(axis=0), middles.max(axis=0)
    wanted = {
        "top-left": low,
        "top-right": np.array([high[0], low[1]]),
        "bottom-left": np.array([low[0], high[1]]),
        "bottom-right": high,
        "centre": (low + high) / 2,
    }
    places = {}
    for name, corner in wanted.items():
        nearest = middles[int(np.argmin(np.linalg.norm(middles - corner, axis=1)))]
        places[name] = nearest
    counts = [int((np.abs(nuclei.cells_um - m).max(axis=1) < side / 2).sum()) for m in middles]
    places["densest"] = middles[int(np.argmax(counts))]
    if windows:
        places["worst-match"] = min(windows, key=lambda w: w.score_here).fixed_middle_um
    return [Place(name, middle) for name, middle in places.items()]


def draw_overlays(
    slide: Slide,
    bundle: Path,
    nuclei: NucleiImage,
    frame: Frame,
    places: Sequence[Place],
    folder: Path,
) -> list[Path]:
    """Draws `overlay-PLACE.png` for each place: a wide field and, framed in it, a close one.

    Args:
        slide: the H&E, of known resolution.
        bundle: the bundle's folder, for its outlines; where it has none, centroids of cells are drawn.
        nuclei: of the bundle.
        frame: the registration.
        places: see `choose_places`.
        folder: where they are written.

    Returns:
        the files.
    """
    files = find_files(bundle)
    reach = WIDE_UM / 2 * np.sqrt(2)
    boxes: list[Box] = [(*(p.middle_um - reach), *(p.middle_um + reach)) for p in places]
    none: list[list[np.ndarray]] = [[] for _ in boxes]
    cells = none if files.cell_boundaries is None else outlines_in(files.cell_boundaries, boxes)
    inner = none if files.nucleus_boundaries is None else outlines_in(files.nucleus_boundaries, boxes)
    paths = []
    for place, of_cells, of_nuclei in zip(places, cells, inner, strict=True):
        path = folder / f"overlay-{place.name}.png"
        _draw(slide, nuclei, frame, place, of_cells, of_nuclei, path)
        paths.append(path)
    return paths


def _draw(
    slide: Slide,
    nuclei: NucleiImage,
    frame: Frame,
    place: Place,
    cells: list[np.ndarray],
    inner: list[np.ndarray],
    path: Path,
) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    at = frame.to_he(place.middle_um[None])[0]
    figure = Figure(figsize=(13, 6.9))  # a constrained layout would draw everything twice
    axes = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=0.91, wspace=0.01)
    near = nuclei.cells_um[np.abs(nuclei.cells_um - place.middle_um).max(axis=1) < WIDE_UM]
    cells, inner = _moved(frame, cells), _moved(frame, inner)
    for axis, field, line in zip(axes, (WIDE_UM, CLOSE_UM), (0.5, 1.3), strict=True):
        _image(axis, slide, at, field)
        _rings(axis, cells, CELL_COLOUR, line)
        _rings(axis, inner, NUCLEUS_COLOUR, line)
        if not cells and not inner and len(near):
            axis.scatter(*frame.to_he(near).T, s=8, c=CELL_COLOUR, linewidths=0)
        axis.set(xlim=(at[0] - field / 2, at[0] + field / 2), ylim=(at[1] + field / 2, at[1] - field / 2))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"{field:g} µm", fontsize=9)
    corner = at - CLOSE_UM / 2
    axes[0].add_patch(Rectangle(tuple(corner), CLOSE_UM, CLOSE_UM, fill=False, lw=1.5))
    figure.suptitle(
        f"{place.name} (morphology x {place.middle_um[0]:.0f}, y {place.middle_um[1]:.0f} µm): "
        "cells yellow, nuclei cyan",
        fontsize=10,
    )
    figure.savefig(path, dpi=100)


def _image(axis: "Axes", slide: Slide, at: np.ndarray, field: float) -> None:
    """Shows the H&E around a point, in H&E µm."""
    mpp_he = slide.require_mpp()
    view = slide.at(max(mpp_he, field / LONGEST_PX))
    mpp = view.downsample * mpp_he
    size = int(np.ceil(field / mpp)) + 2
    left, top = np.floor((at - field / 2) / mpp).astype(int)
    image = view.read(top, left, size, size).transpose(1, 2, 0)
    extent = (left * mpp, (left + size) * mpp, (top + size) * mpp, top * mpp)
    axis.imshow(image, extent=extent, interpolation="nearest")


def _moved(frame: Frame, rings: list[np.ndarray]) -> list[np.ndarray]:
    """Outlines carried from morphology to H&E µm."""
    if not rings:
        return []
    return np.split(frame.to_he(np.concatenate(rings)), np.cumsum([len(ring) for ring in rings])[:-1])


def _rings(axis: "Axes", rings: list[np.ndarray], colour: str, line: float) -> None:
    from matplotlib.collections import PolyCollection

    if rings:
        axis.add_collection(PolyCollection(rings, facecolors="none", edgecolors=colour, lw=line))
