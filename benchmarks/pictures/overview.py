"""The front page's picture: what goes in, the joint space, and what the three applications make of it.

Every panel is drawn from what the packages computed on the embedded default data.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FIELD_UM = 120.0
"""Side of the H&E field in µm."""
CELLS = 900
"""Cells in the map of the joint space."""
SHOWN = {
    "tumour": "#b5493b",
    "fibroblast": "#3f7cac",
    "t_cell": "#8f8f8f",
    "macrophage": "#8e63b0",
    "epithelial": "#3c9d5d",
}
"""Colours of the cell types that are named; others are pale."""
PANEL = (0.757, 0.125)
"""Where the last panel of the picture `survival` begins, as shares of its width and height."""
OTHER = "#d5d0c4"


def overview() -> "Figure":
    """Inputs, joint space and applications in one row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.2, 5.6))
    inputs, space, uses = figure.subfigures(1, 3, width_ratios=(0.95, 1.05, 1.75), wspace=0.0)
    slide, image, cell = _joint()
    types = slide.annotation("cell_type").to_numpy(str)
    _inputs(inputs, slide, types)
    _space(space, image, cell, types)
    _uses(uses)
    return figure


def _joint() -> Any:
    from benchmarks.pictures.make import joint_sides

    return joint_sides()


def _inputs(part: "SubFigure", slide: Any, types: np.ndarray) -> None:
    """A field of H&E with its cells, and a gene as measured in the same cells."""
    from matplotlib.collections import PolyCollection

    from past_core.ingest.overlay import crowded_field, outlines_within
    from past_genex.data.targets import Target

    part.suptitle("1   Xenium and its H&E, registered", x=0.04, ha="left", fontsize=11, weight="bold")
    top_axis, low_axis = part.subplots(
        2, 1, gridspec_kw={"left": 0.05, "right": 0.95, "top": 0.88, "bottom": 0.02, "hspace": 0.14}
    )
    store = slide.store
    side = round(FIELD_UM / store.mpp)
    left, top = crowded_field(store.centroids, side, (store.levels[0].height, store.levels[0].width))
    picture = store.read(0, top, left, side, side).transpose(1, 2, 0)
    box = (left, top, left + side, top + side)
    shapes = [o - [left + 0.5, top + 0.5] for o in outlines_within(store, "cell_boundaries", box)]
    top_axis.imshow(picture)
    top_axis.add_collection(PolyCollection(shapes, facecolors="none", edgecolors="#ffe600", lw=0.7))
    top_axis.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    top_axis.set_title("H&E around every cell", fontsize=9, pad=3)
    values = slide.expression(Target("median"), slide.genes)
    spread = np.nanstd(values, axis=0)
    gene = int(np.argmax(np.nan_to_num(spread)))
    low_axis.scatter(*slide.xy_um.T, c=values[:, gene], s=4.0, cmap="viridis", linewidths=0, rasterized=True)
    low_axis.set_aspect("equal")
    low_axis.invert_yaxis()
    low_axis.set_title(
        f"transcripts of {len(slide.genes)} genes (here {slide.symbols[gene]})", fontsize=9, pad=3
    )
    for axis in (top_axis, low_axis):
        _bare(axis)


def _space(part: "SubFigure", image: np.ndarray, cell: np.ndarray, types: np.ndarray) -> None:
    """Both sides in one map, coloured by type; images as crosses, transcriptomes as dots."""
    from umap import UMAP

    part.suptitle("2   One space of single cells", x=0.04, ha="left", fontsize=11, weight="bold")
    axis = part.subplots(1, 1, gridspec_kw={"left": 0.03, "right": 0.97, "top": 0.88, "bottom": 0.02})
    chosen = np.sort(np.random.default_rng(0).permutation(len(image))[:CELLS])
    both = np.concatenate([image[chosen], cell[chosen]])
    points = UMAP(metric="cosine", random_state=0, n_neighbors=15).fit_transform(both)
    colours = np.array([SHOWN.get(kind, OTHER) for kind in types[chosen]])
    for number, (marker, size, label) in enumerate((("x", 9, "its H&E"), ("o", 8, "its transcriptome"))):
        own = points[number * CELLS : (number + 1) * CELLS]
        style = {"linewidths": 0.7} if marker == "x" else {"linewidths": 0}
        axis.scatter(*own.T, c=colours, marker=marker, s=size, alpha=0.8, **style)
        axis.scatter([], [], c="0.2", marker=marker, s=22, label=label)
    for kind, colour in SHOWN.items():
        axis.scatter([], [], c=colour, marker="s", s=22, label=kind.replace("_", " "))
    axis.scatter([], [], c=OTHER, marker="s", s=22, label="other types")
    axis.legend(fontsize=7.5, frameon=False, loc="best", handletextpad=0.2, labelspacing=0.35)
    axis.set_title("image and transcriptome of the same cells", fontsize=9, pad=3)
    _bare(axis)


def _uses(part: "SubFigure") -> None:
    """Expression and survival above, virtual IHC below."""
    part.suptitle("3   From H&E alone", x=0.02, ha="left", fontsize=11, weight="bold")
    upper = part.add_gridspec(
        1, 3, left=0.02, right=0.985, top=0.84, bottom=0.53, wspace=0.12, width_ratios=(1, 1, 1.15)
    )
    lower = part.add_gridspec(1, 3, left=0.02, right=0.985, top=0.40, bottom=0.02, wspace=0.04)
    _expression([part.add_subplot(upper[0, column]) for column in range(2)])
    _survival(part.add_subplot(upper[0, 2]))
    _stain([part.add_subplot(lower[0, column]) for column in range(3)])


def _expression(axes: "list[Axes]") -> None:
    """The best-predicted gene of a patient left out, measured beside predicted, one scale."""
    from benchmarks.pictures.make import left_out_patient
    from past_genex.metrics.pairs import PairMoments

    slide, _, symbols, predicted, measured = left_out_patient()
    r = PairMoments.of(predicted, measured).r
    gene = int(np.nanargmax(r))
    low, high = np.percentile(np.concatenate([predicted[:, gene], measured[:, gene]]), (1, 99))
    titles = f"expression: {symbols[gene]}, measured", f"predicted, r = {r[gene]:.2f}"
    for axis, values, title in zip(axes, (measured, predicted), titles, strict=True):
        axis.scatter(
            *slide.xy_um.T, c=values[:, gene], s=3.0, vmin=low, vmax=high, cmap="viridis", linewidths=0
        )
        axis.set_aspect("equal")
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9, pad=3)
        _bare(axis)


def _survival(axis: "Axes") -> None:
    """High and low predicted risk, out of fold: the last panel of the picture `survival`."""
    from PIL import Image

    from benchmarks.pictures.catalogue import FOLDER, ROOT

    picture = Image.open(ROOT / FOLDER / "survival.png").convert("RGB")
    width, height = picture.size
    left, top = round(PANEL[0] * width), round(PANEL[1] * height)
    axis.imshow(np.asarray(picture.crop((left, top, width, height))), interpolation="lanczos")
    axis.set_title("survival: MCAT, out of fold", fontsize=9, pad=3)
    axis.set_axis_off()


def _stain(axes: "list[Axes]") -> None:
    """H&E, virtual and real stain of one held-out tile."""
    from benchmarks.pictures.make import brown_tiles

    tiles, _ = brown_tiles()
    case = sorted(tiles)[-1]
    titles = "H&E", "virtual IHC (ER)", "real ER of the same section"
    for axis, picture, title in zip(axes, tiles[case], titles, strict=True):
        axis.imshow(picture.transpose(1, 2, 0), interpolation="bilinear")
        axis.set_title(title, fontsize=9, pad=3)
        _bare(axis)


def _bare(axis: "Axes") -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("0.7")
