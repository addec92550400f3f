"""The tests of a cell that need its table alone: counts, controls, areas, nucleus, place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_core.ingest.quality.options import QualityOptions

NO_GENES = "no_genes"
OUTSIDE_IMAGE = "outside_image"
REASONS = (
    NO_GENES,
    OUTSIDE_IMAGE,
    "low_counts",
    "low_genes",
    "control_fraction",
    "cell_area",
    "no_nucleus",
    "nucleus_ratio",
    "outside_tissue",
    "near_border",
    "transcript_density",
    "doublet",
    "out_of_focus",
    "no_haematoxylin",
)
"""Every reason, in the order in which a cell's are joined."""

CONTROLS = "negative_control_counts"
DENSITY = "transcript_density"
PANEL_SHARE = 50
"""`min_genes` is at most the panel's size over this."""


class Skipped(Exception):  # noqa: N818  (a turn of events, not an error)
    """A test cannot be run on this slide; the message says why."""


@dataclass(frozen=True)
class Quantity:
    """What a test measured and where it draws the line.

    Attributes:
        reason: of the cells that fail.
        label: what is measured, with its unit, for people.
        measured: (N,) float64, nan where a cell has none, or None where the test is a yes or no.
        failed: (N,) bool.
        low: least value that passes, None without.
        high: largest, None without.
        column: the obs column that the values go to, None where obs has them already or in parts.
    """

    reason: str
    label: str
    measured: np.ndarray | None
    failed: np.ndarray
    low: float | None = None
    high: float | None = None
    column: str | None = None


@dataclass(frozen=True)
class Cells:
    """What is known about the cells of a slide.

    Attributes:
        counts: (N,) transcripts of genes.
        genes: (N,) genes with a transcript.
        panel: number of genes that are measured.
        xy: (N, 2) centroids in level-0 pixels.
        size: (height, width) of the image in level-0 pixels.
        mpp: µm per level-0 pixel.
        obs: (N rows) what the source says about them.
    """

    counts: np.ndarray
    genes: np.ndarray
    panel: int
    xy: np.ndarray
    size: tuple[int, int]
    mpp: float
    obs: pd.DataFrame

    def __len__(self) -> int:
        return len(self.xy)

    def column(self, name: str) -> np.ndarray:
        """A column of numbers.

        Raises:
            Skipped: The source has no such column.
        """
        if name not in self.obs or not pd.api.types.is_numeric_dtype(self.obs[name]):
            raise Skipped(f"the cells have no {name}")
        return self.obs[name].to_numpy(np.float64)


def no_genes(cells: Cells, options: QualityOptions) -> Quantity:
    """No transcript of any gene."""
    return Quantity(NO_GENES, "transcripts", None, cells.counts <= 0)


def outside_image(cells: Cells, options: QualityOptions) -> Quantity:
    """The centroid lies outside the image."""
    (x, y), (height, width) = cells.xy.T, cells.size
    return Quantity(OUTSIDE_IMAGE, "", None, (x < 0) | (y < 0) | (x >= width) | (y >= height))


def low_counts(cells: Cells, options: QualityOptions) -> Quantity:
    """Fewer than `min_counts` transcripts of genes."""
    return _between("low_counts", "transcripts per cell", cells.counts, options.min_counts, None)


def low_genes(cells: Cells, options: QualityOptions) -> Quantity:
    """Fewer than `min_genes` genes, or than a fiftieth of a small panel."""
    least = max(1, min(options.min_genes, cells.panel // PANEL_SHARE))
    return _between("low_genes", "genes per cell", cells.genes, least, None)


def control_fraction(cells: Cells, options: QualityOptions) -> Quantity:
    """Negative controls over genes and negative controls; 0 where there is neither."""
    controls = cells.column(CONTROLS)
    share = controls / np.maximum(controls + cells.counts, 1)
    return _between(
        "control_fraction", "share of negative controls", share, None, options.max_control_fraction
    )


def cell_area(cells: Cells, options: QualityOptions) -> Quantity:
    """The cell's area; a cell without one fails."""
    area = cells.column("cell_area_um2")
    return _between("cell_area", "cell area (µm²)", area, options.min_area, options.max_area, absent=True)


def no_nucleus(cells: Cells, options: QualityOptions) -> Quantity:
    """No nucleus: none counted, or where nuclei are not counted no area."""
    if "nucleus_count" in cells.obs:
        return Quantity("no_nucleus", "", None, ~(cells.column("nucleus_count") > 0))
    try:
        return Quantity("no_nucleus", "", None, ~(cells.column("nucleus_area_um2") > 0))
    except Skipped:
        raise Skipped("the cells have neither nucleus_count nor nucleus_area_um2") from None


def nucleus_ratio(cells: Cells, options: QualityOptions) -> Quantity:
    """Area of the nucleus over the cell's; a cell without a nucleus is left to `no_nucleus`."""
    nucleus, cell = cells.column("nucleus_area_um2"), cells.column("cell_area_um2")
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((nucleus > 0) & (cell > 0), nucleus / cell, np.nan)
    return _between(
        "nucleus_ratio",
        "nucleus area over cell area",
        ratio,
        options.min_nucleus_ratio,
        # Both areas are counts of the same pixels: beyond rounding, a nucleus is larger or it is not.
        None if options.max_nucleus_ratio is None else options.max_nucleus_ratio * (1 + 1e-6),
    )


def near_border(cells: Cells, options: QualityOptions) -> Quantity:
    """The centroid lies in the image, but closer than `border` µm to its edge."""
    (x, y), (height, width) = cells.xy.T, cells.size
    distance = np.minimum.reduce([x, y, width - x, height - y]) * cells.mpp
    quantity = _between("near_border", "distance to the image's edge (µm)", distance, options.border, None)
    return Quantity(**{**vars(quantity), "failed": quantity.failed & (distance >= 0)})


def transcript_density(cells: Cells, options: QualityOptions) -> Quantity:
    """Transcripts of genes per µm² of the cell."""
    area = cells.column("cell_area_um2")
    density = np.where(area > 0, cells.counts / np.where(area > 0, area, 1), np.nan)
    label = "transcripts per µm²"
    return _between(DENSITY, label, density, options.min_density, options.max_density, column=DENSITY)


Test = Callable[[Cells, QualityOptions], Quantity]


def wanted_table_tests(options: QualityOptions) -> Mapping[str, Test]:
    """The tests of this file that the options turn on, by reason."""
    ratio, density = ("nucleus_ratio", "density")
    on: dict[str, tuple[bool, Test]] = {
        NO_GENES: (True, no_genes),
        OUTSIDE_IMAGE: (True, outside_image),
        "low_counts": (options.min_counts > 0, low_counts),
        "low_genes": (options.min_genes > 0, low_genes),
        "control_fraction": (options.max_control_fraction is not None, control_fraction),
        "cell_area": (_bounded(options, "area"), cell_area),
        "no_nucleus": (options.nucleus, no_nucleus),
        "nucleus_ratio": (_bounded(options, ratio), nucleus_ratio),
        "near_border": (options.border is not None, near_border),
        DENSITY: (_bounded(options, density), transcript_density),
    }
    return {reason: test for reason, (wanted, test) in on.items() if wanted}


def _bounded(options: QualityOptions, name: str) -> bool:
    return any(getattr(options, f"{side}_{name}") is not None for side in ("min", "max"))


def _between(
    reason: str,
    label: str,
    values: np.ndarray,
    low: float | None,
    high: float | None,
    *,
    absent: bool = False,
    column: str | None = None,
) -> Quantity:
    """Fails what is below `low` or above `high`; a value that is not known (nan) fails if `absent`."""
    values = np.asarray(values, np.float64)
    failed = np.isnan(values) if absent else np.zeros(len(values), bool)
    if low is not None:
        failed = failed | (values < low)
    if high is not None:
        failed = failed | (values > high)
    return Quantity(reason, label, values, failed, low, high, column)
