"""From an IHC slide, with its H&E or without, to an H-score with its nuclei, interval and flags."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from past_core.nuclei.sources import LabelTiles, label_tiles
from past_core.slides import Slide, open_slide, tissue_mask
from past_core.stains import StainSet
from past_vihc.hscore import find_nuclei
from past_vihc.hscore.pairing import check_pair, exact_view
from past_vihc.hscore.pixel_score import pixel_counts, pixel_score
from past_vihc.hscore.presets import CLASSES, Thresholds, thresholds_named
from past_vihc.hscore.quantify import White, nuclear_dab_at
from past_vihc.hscore.regions import Region
from past_vihc.hscore.result import SlideScore
from past_vihc.hscore.score import HScore, classify, h_score
from past_vihc.hscore.stain_choice import choose_stains
from past_vihc.hscore.uncertainty import FEW_BLOCKS, WHITE_FACTORS, blocks_of, bootstrap_interval, sensitivity
from past_vihc.hscore.white import WhitePoint, estimate_white, white_point
from past_vihc.markers import Marker, nuclear_marker

DENSE_WHITE = 6.0
"""Glass this far from the white point that was used is said to be so."""
PIXEL_TILE = 1024


class _Measured(NamedTuple):
    table: pd.DataFrame
    outlines: list[np.ndarray]
    whites: dict[str, np.ndarray]


def score_slide(
    ihc: Slide | Path,
    he: Slide | Path | None = None,
    *,
    marker: str,
    thresholds: Thresholds | str,
    segmenter: str = "auto",
    labels: Path | None = None,
    adjacent: bool = False,
    mpp: float | None = None,
    at_mpp: float = 0.5,
    tile: int | None = 1024,
    white: str | White = 255.0,
    stains: str | StainSet = "qupath-hdab",
    regions: list[Region] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SlideScore:
    """Scores a slide; tiles change nothing, and memory is that of a tile and of the list of nuclei.

    Nuclei are found on the H&E where it is given, and the same masks measured on the IHC: right for a virtual
    IHC, which lies upon its H&E to the pixel. Where the two are different sections, `adjacent` finds and
    measures nuclei on the IHC and takes only their number from the H&E, as IHC4BC does. Without an H&E,
    nuclei are found on the IHC, which is flagged.

    Args:
        ihc: the IHC, an open slide or its path.
        he: the H&E of the same field.
        marker: of `past_vihc.markers`, one with a nuclear H-score.
        thresholds: or the name of a preset.
        segmenter: of `past_core.nuclei`: auto, stardist or watershed.
        labels: label image or QuPath GeoJSON of the H&E (else the IHC), instead of a segmenter.
        adjacent: H&E and IHC are different sections.
        mpp: µm per pixel of slides that are given as paths, where their files do not say.
        at_mpp: µm per pixel at which nuclei are found and measured; labels are measured at their own.
        tile: side of a tile in pixels; None for the slide as one.
        white: value of bare glass, or `"auto"`.
        stains: a set of haematoxylin and DAB, its name, `"auto"` or `"macenko"`, or a JSON file of vectors.
        regions: areas that are scored on their own too.
        seed: of the bootstrap.
        progress: called with tiles done and in all.

    Raises:
        MarkerError: a marker without a nuclear H-score.
        SlideError, NucleiError, PairError, LabelError, WhiteError, StainError, ThresholdError: what they say.
    """
    found = nuclear_marker(marker)
    thresholds = thresholds_named(thresholds) if isinstance(thresholds, str) else thresholds
    ihc = open_slide(ihc, mpp=mpp) if isinstance(ihc, Path) else ihc
    he = open_slide(he, mpp=mpp) if isinstance(he, Path) else he
    ihc.require_mpp()
    if he is not None:
        check_pair(ihc, he)
    glass = white_point(ihc, white)
    vectors, flags = choose_stains(ihc, stains, glass, mpp=at_mpp)
    upon = ihc if he is None or adjacent else he
    seen = find_nuclei.AsHaematoxylin(ihc, stains=vectors, white=glass.rgb) if upon is ihc else upon
    tiles = label_tiles(seen, segmenter=segmenter, labels=labels, mpp=at_mpp, tile=tile, progress=progress)
    measured = _measure(ihc, tiles, vectors, glass)
    table = measured.table
    table["class"] = np.array(CLASSES, object)[classify(table["dab_od"].to_numpy(), thresholds)]
    counted = None
    if adjacent and he is not None:
        counted = _count(he, segmenter, at_mpp, tile)
    score = h_score(
        table["dab_od"].to_numpy(), thresholds, denominator=None if counted is None else len(counted)
    )
    interval = None
    if score.h is not None and len(table):
        interval = bootstrap_interval(
            classify(table["dab_od"].to_numpy(), thresholds),
            blocks_of(table["x_um"].to_numpy(), table["y_um"].to_numpy()),
            denominator_blocks=None if counted is None else blocks_of(*counted.T),
            seed=seed,
        )
    rows = _regions(table, regions or [], thresholds, counted, ihc.require_mpp())
    other = sensitivity(
        table["dab_od"].to_numpy(), thresholds, other_whites=measured.whites, denominator=score.denominator
    )
    flags |= _flags(ihc, he, adjacent, found, thresholds, glass, vectors, score, interval)
    return SlideScore(
        nuclei=table,
        outlines=measured.outlines,
        score=score,
        interval=interval,
        sensitivity=other,
        regions=rows,
        pixels=_pixels(ihc, thresholds, vectors, glass, tiles.mpp),
        flags=flags,
        record={
            "marker": found.name,
            "ihc": ihc.name,
            "he": None if he is None else he.name,
            "adjacent_sections": adjacent,
            "mpp": ihc.require_mpp(),
            "measured_at_mpp": tiles.mpp,
            "thresholds": {
                "name": thresholds.name,
                "source": thresholds.source,
                **dict(zip(("weak", "moderate", "strong"), thresholds.levels, strict=True)),
            },
            "stains": {"name": vectors.name, "vectors": vectors.matrix.tolist()},
            "white": {"values": list(glass.rgb), "source": glass.source, "note": glass.note},
            "nuclei_on": "H&E" if upon is he else "IHC",
            "segmenter": tiles.segmenter,
            "parameters": tiles.parameters,
            "software": f"past-vihc {importlib.metadata.version('past-vihc')}",
        },
    )


def _count(he: Slide, segmenter: str, mpp: float, tile: int | None) -> np.ndarray:
    """Centroids of the H&E's nuclei in µm, `(N, 2)`."""
    tiles = label_tiles(he, segmenter=segmenter, mpp=mpp, tile=tile)
    return np.concatenate([np.zeros((0, 2)), *(made.centroids * tiles.mpp for made in tiles)])


def _measure(ihc: Slide, tiles: LabelTiles, vectors: StainSet, glass: WhitePoint) -> _Measured:
    mpp = tiles.mpp
    view, own = exact_view(ihc, mpp), ihc.require_mpp()
    names = [f"white x {factor:g}" for factor in WHITE_FACTORS]
    whites = (glass.rgb, *(glass.scaled(factor) for factor in WHITE_FACTORS))
    columns, rings = [np.zeros((0, 7))], []
    for made in tiles:
        image = view.read(made.top, made.left, *made.labels.shape)
        found = nuclear_dab_at(image, find_nuclei.owned_labels(made), stains=vectors, whites=whites)
        place = made.centroids[np.argsort(made.owned)]
        first = found[0]
        columns.append(
            np.column_stack([place, first.area, first.haematoxylin, *(values.dab for values in found)])
        )
        outlines = find_nuclei.outlines(made)
        rings += [outlines[i] * np.float32(view.downsample) for i in np.argsort(made.owned)]
    values = np.concatenate(columns)
    order = np.lexsort((values[:, 0], values[:, 1]))
    x, y, area, haematoxylin, dab, *others = values[order].T
    table = pd.DataFrame(
        {
            "label": np.arange(1, len(order) + 1),
            "x": x * mpp / own,
            "y": y * mpp / own,
            "x_um": x * mpp,
            "y_um": y * mpp,
            "area_um2": area * mpp**2,
            "dab_od": dab,
            "haematoxylin_od": haematoxylin,
        }
    )
    return _Measured(table, [rings[i] for i in order], dict(zip(names, others, strict=True)))


def _regions(
    table: pd.DataFrame, regions: list[Region], thresholds: Thresholds, counted: np.ndarray | None, mpp: float
) -> pd.DataFrame:
    """Scores of the regions; adds to the table which each nucleus lies in, the first where several."""
    points, dab = table[["x", "y"]].to_numpy(), table["dab_od"].to_numpy()
    names, rows = np.full(len(table), "", object), []
    for region in regions:
        inside = region.contains(points)
        names[inside & (names == "")] = region.name
        of = None if counted is None else int(region.contains(counted / mpp).sum())
        score = h_score(dab[inside], thresholds, denominator=of)
        percent = [None] * 4 if score.percent is None else score.percent.tolist()
        rows.append(
            {
                "region": region.name,
                "nuclei": score.n,
                "denominator": score.denominator,
                "h_score": score.h,
                "percent_positive": score.percent_positive,
                **{f"percent {name}": value for name, value in zip(CLASSES, percent, strict=True)},
                "allred": None if score.allred is None else score.allred.total,
                "why_undefined": score.why_undefined,
            }
        )
    table["region"] = names
    return pd.DataFrame(rows)


def _pixels(ihc: Slide, thresholds: Thresholds, vectors: StainSet, glass: WhitePoint, mpp: float) -> Any:
    # By colour alone much of a pale counterstain would pass for glass beside brown.
    tissue, downsample = tissue_mask(find_nuclei.AsHaematoxylin(ihc, stains=vectors, white=glass.rgb))
    view = exact_view(ihc, mpp)
    ratio = view.downsample / downsample
    total = np.zeros(5, np.int64)
    for top in range(0, view.height, PIXEL_TILE):
        for left in range(0, view.width, PIXEL_TILE):
            height, width = min(PIXEL_TILE, view.height - top), min(PIXEL_TILE, view.width - left)
            row = np.minimum(((np.arange(top, top + height) + 0.5) * ratio).astype(int), tissue.shape[0] - 1)
            column = np.minimum(
                ((np.arange(left, left + width) + 0.5) * ratio).astype(int), tissue.shape[1] - 1
            )
            mask = tissue[np.ix_(row, column)]
            if mask.any():
                image = view.read(top, left, height, width)
                total += pixel_counts(image, mask, thresholds, stains=vectors, white=glass.rgb)
    return pixel_score(total)


def _flags(
    ihc: Slide,
    he: Slide | None,
    adjacent: bool,
    marker: Marker,
    thresholds: Thresholds,
    glass: WhitePoint,
    vectors: StainSet,
    score: HScore,
    interval: Any,
) -> dict[str, str]:
    flags = {}
    if score.why_undefined:
        flags["undefined"] = score.why_undefined
    if he is None:
        flags["no-he"] = (
            "nuclei were found on the IHC: pale negative ones may be missed, which raises the score"
        )
    if adjacent:
        flags["adjacent"] = "H&E and IHC are different sections: percentages are of the H&E's nuclei"
    if score.clipped:
        flags["clipped"] = f"{score.n} nuclei on the IHC, {score.denominator} on the H&E: shares end at 100 %"
    if score.h is not None and (interval is None or interval.blocks < FEW_BLOCKS):
        blocks = 1 if interval is None else interval.blocks
        flags["few-blocks"] = f"the interval rests on {blocks} squares of tissue, too few to rely on"
    of_other = thresholds.name.startswith("ihc4bc-") and thresholds.name not in marker.presets
    if of_other:
        flags["preset"] = f"{thresholds.name} was published for another marker than {marker.label}"
    for key, used in (("stains", vectors.name), ("white", glass.source), ("marker", marker.name)):
        fitted = thresholds.fitted.get(key)
        if fitted is not None and fitted != used:
            flags[f"fitted-{key}"] = f"the thresholds were fitted with {key} {fitted}, this score has {used}"
    if glass.note:
        flags["white"] = glass.note
    if glass.source == "fixed" and glass.note is None:
        seen = estimate_white(ihc)
        if seen.source == "estimated" and min(seen.rgb) < 255 - DENSE_WHITE:
            values = ", ".join(f"{v:.0f}" for v in seen.rgb)
            flags["white"] = f"the slide's glass is {values}, not 255: --white auto would lower every density"
    return flags
