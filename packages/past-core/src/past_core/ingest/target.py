"""A slide at another resolution: image, cells, outlines and registration together."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from past_core.ingest.checks import SlideDataError
from past_core.ingest.hest import COLUMN_PAIRS
from past_core.ingest.rings import Rings
from past_core.ingest.write import SlideData
from past_core.slides import Slide
from past_core.slides.arrays import ArraySlide
from past_core.slides.resampled import ResampledSlide

logger = logging.getLogger(__name__)


def to_resolution(data: SlideData, mpp: float) -> SlideData:
    """The same slide at `mpp` µm per pixel, so that a patch of so many pixels spans the same on every slide.

    All that is in H&E pixels is scaled alike: centroids, outlines, and the matrices of the registration. The
    image stays lazy; its pixels are averaged over their area (no aliasing) when they are read. Within 1 % of
    one of the image's levels that level is taken as it is, and `mpp` becomes its resolution.

    Args:
        data: The slide at its native resolution; it is not changed.
        mpp: µm per pixel that is wanted.

    Returns:
        The slide, with `report["target_mpp"]` = {native, target}.

    Raises:
        SlideDataError: `mpp` or the native resolution is not a positive number.
        SlideError: The image cannot be seen as a slide.
    """
    for value, what in ((mpp, "--target-mpp"), (data.mpp, "the slide's own resolution")):
        if not (np.isfinite(value) and value > 0):
            raise SlideDataError(
                f"{data.name}: {what} is {value}, expected a positive number of µm per pixel"
            )
    image = data.image
    if not isinstance(image, Slide):
        image = ArraySlide(image, data.mpp, data.name)
    resampled = ResampledSlide(image, mpp, native=data.mpp)
    report = {**data.report, "target_mpp": {"native": float(data.mpp), "target": float(mpp)}}
    factor = resampled.downsample
    if factor == 1.0:
        return replace(data, report=report)
    logger.info("%s: from %.4g to %.4g µm per pixel", data.name, data.mpp, resampled.mpp)
    return replace(
        data,
        image=resampled,
        mpp=float(resampled.require_mpp()),
        table=_table(data.table, factor),
        cell_boundaries=_outlines(data.cell_boundaries, factor),
        nucleus_boundaries=_outlines(data.nucleus_boundaries, factor),
        registration=_registration(data.registration, factor),
        report=report,
    )


def _table(table: Any, factor: float) -> Any:
    """A copy whose positions are in the new pixels; counts are shared."""
    scaled = table.copy()
    scaled.obsm["spatial"] = np.asarray(table.obsm["spatial"], np.float64) / factor
    for column in (name for pair in COLUMN_PAIRS for name in pair):
        if column in scaled.obs:
            scaled.obs[column] = scaled.obs[column].to_numpy(np.float64) / factor
    return scaled


def _outlines(outlines: Any, factor: float) -> Any:
    if outlines is None or not len(outlines):
        return outlines
    if isinstance(outlines, Rings):
        return outlines.divided(factor)
    scaled = outlines.copy()
    scaled["geometry"] = outlines.geometry.scale(1 / factor, 1 / factor, origin=(0, 0))
    return scaled


def _registration(record: Mapping[str, Any] | None, factor: float) -> dict[str, Any] | None:
    """The record with its matrices for the new pixels: `matrix` is from them, `shapes_to_image` to them."""
    if record is None:
        return None
    scaled = dict(record)
    grow = np.diag([factor, factor, 1.0])
    if record.get("matrix") is not None:
        scaled["matrix"] = (np.asarray(record["matrix"], np.float64) @ grow).tolist()
    if record.get("scale_mpp") is not None:
        scaled["scale_mpp"] = float(record["scale_mpp"]) * factor
    if record.get("shapes_to_image") is not None:
        scaled["shapes_to_image"] = (np.linalg.inv(grow) @ np.asarray(record["shapes_to_image"])).tolist()
    return scaled
