"""All tests over the cells of one slide: flags, reasons, the numbers behind them, and what was skipped."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from past_core.ingest.checks import cell_totals
from past_core.ingest.quality.cells import REASONS, Cells, Quantity, Skipped, wanted_table_tests
from past_core.ingest.quality.flags import joined_reasons, quality_report
from past_core.ingest.quality.haematoxylin import Outlines, outlines_of
from past_core.ingest.quality.image_tests import doublet, no_haematoxylin, out_of_focus, outside_tissue
from past_core.ingest.quality.options import QualityOptions
from past_core.ingest.quality.pixels import as_slide
from past_core.ingest.rings import Rings
from past_core.slides import Slide

logger = logging.getLogger(__name__)


@dataclass
class Assessment:
    """What quality control found.

    Attributes:
        options: what was asked for.
        tests: those that ran, in the order of `REASONS`.
        skipped: reason -> why its test did not run.
        columns: further obs columns, (N,) each.
        figures: reason -> figures of the whole slide.
    """

    options: QualityOptions
    tests: list[Quantity] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def flags(self) -> pd.DataFrame:
        """One row a cell: `qc_pass`, `qc_reason`, and the numbers behind optional tests."""
        reason = joined_reasons({test.reason: test.failed for test in self.tests})
        frame = pd.DataFrame({"qc_pass": reason == "", "qc_reason": pd.Categorical(reason)})
        for test in self.tests:
            if test.column is not None and test.measured is not None:
                frame[test.column] = test.measured
        return frame.assign(**self.columns)

    def report(self, obs: pd.DataFrame) -> dict[str, Any]:
        """For the manifest, in plain types.

        Args:
            obs: the flags, in any order.
        """
        return quality_report(obs) | {
            "options": dataclasses.asdict(self.options),
            "tests": {
                test.reason: {
                    "low": _plain(test.low),
                    "high": _plain(test.high),
                    "failed": int(test.failed.sum()),
                }
                for test in self.tests
            },
            "skipped": self.skipped,
            "figures": self.figures,
        }


def assess(
    options: QualityOptions,
    *,
    counts: csr_matrix,
    xy: np.ndarray,
    size: tuple[int, int],
    mpp: float,
    obs: pd.DataFrame,
    image: Any = None,
    nuclei: Outlines | None = None,
    name: str = "slide",
) -> Assessment:
    """Runs every test that the options turn on; one that the slide lacks something for is skipped, and said.

    Args:
        options: the tests and thresholds.
        counts: (N, G) raw counts of genes.
        xy: (N, 2) centroids in level-0 pixels.
        size: (height, width) of the image in level-0 pixels.
        mpp: µm per level-0 pixel.
        obs: (N rows) what is known about the cells: cell_area_um2, nucleus_area_um2, nucleus_count,
            negative_control_counts.
        image: the H&E, an open slide or an array (3, H, W) uint8; None skips what looks at it.
        nuclei: outlines of the nuclei.
        name: of the slide, for messages.
    """
    xy = np.asarray(xy, np.float64)
    totals, genes = cell_totals(counts)
    cells = Cells(
        counts=totals.astype(np.float64),
        genes=genes,
        panel=counts.shape[1],
        xy=xy,
        size=size,
        mpp=mpp,
        obs=obs,
    )
    found = Assessment(options)
    for reason, test in wanted_table_tests(options).items():
        _run(found, reason, partial(_of_table, test, cells, options))
    if options.doublet:
        _run(found, "doublet", lambda: doublet(cells, counts, options))
    slide = None if image is None else as_slide(image, mpp=mpp, name=name)
    looks: dict[str, tuple[bool, Callable[[Slide], Any]]] = {
        "outside_tissue": (options.tissue, lambda shown: outside_tissue(cells, shown, options)),
        "out_of_focus": (options.focus, lambda shown: out_of_focus(cells, shown, options)),
        "no_haematoxylin": (
            options.haematoxylin,
            lambda shown: no_haematoxylin(cells, shown, options, nuclei),
        ),
    }
    for reason, (wanted, look) in looks.items():
        if wanted and slide is None:
            found.skipped[reason] = "there is no image"
        elif wanted and slide is not None:
            _run(found, reason, partial(look, slide))
    found.tests.sort(key=lambda test: REASONS.index(test.reason))
    for reason, why in found.skipped.items():
        logger.warning("%s: quality control skips %s: %s", name, reason, why)
    return found


def nuclei_of(boundaries: Any, cell_ids: pd.Index) -> Outlines | None:
    """The nuclei's outlines as the tests take them.

    Args:
        boundaries: GeoDataFrame of polygons in level-0 pixels with the column `cell_id`, or indexed by it;
            or `Rings`.
        cell_ids: (N,) ids of the table's rows.
    """
    if boundaries is None or not len(boundaries):
        return None
    if isinstance(boundaries, Rings):
        row = cell_ids.get_indexer(boundaries.cell_id)
        mine = boundaries if (row >= 0).all() else boundaries.taken(np.flatnonzero(row >= 0))
        return Outlines(mine.points, mine.start, row[row >= 0])
    owner = boundaries["cell_id"] if "cell_id" in boundaries else boundaries.index.to_series()
    return outlines_of(boundaries.geometry.to_numpy(), cell_ids.get_indexer(owner.astype(str)))


def _of_table(test: Callable[[Cells, QualityOptions], Any], cells: Cells, options: QualityOptions) -> Any:
    return test(cells, options), {}, {}


def _run(found: Assessment, reason: str, test: Callable[[], Any]) -> None:
    try:
        quantity, columns, figures = test()
    except Skipped as why:
        found.skipped[reason] = str(why)
        return
    found.tests.append(quantity)
    found.columns.update(columns)
    if figures:
        found.figures[reason] = figures


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
