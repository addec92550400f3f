"""From a slide and a probe to predictions on disk."""

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from past_core.embed.partial import sweep
from past_core.embed.vectors import embed_patches
from past_core.slides.identity import source_key
from past_core.slides.slide import Slide
from past_core.slides.stored import StoredSlide
from past_genex.predict.cells import Cells, found_cells, listed_cells, stored_cells
from past_genex.predict.reading import FORMAT, KIND, Prediction, read_prediction
from past_genex.predict.writing import check_output, write_prediction
from past_genex.probe.files import Probe
from past_genex.probe.trust import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def predict_slide(
    slide: Slide,
    probe: Probe,
    encoder: "FrozenEncoder",
    output: str | Path,
    *,
    centroids: Path | None = None,
    genes: Sequence[str] | None = None,
    min_r: float = DEFAULT_THRESHOLD,
    batch_size: int = 64,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prediction:
    """Predicts the expression of a slide's cells; goes on where a killed run stopped.

    Args:
        slide: an open slide: a store's, whose cells are taken, or any H&E image, whose nuclei are found.
        probe: the probe.
        encoder: the encoder that it was fitted on.
        output: the `.zarr` to make.
        centroids: a table of cells to take instead, see `listed_cells`.
        genes: ids or symbols; all of the probe's by default.
        min_r: held-out r below which a gene is flagged.
        batch_size: patches at a time.
        overwrite: replace a prediction that is there.
        progress: called now and then.

    Raises:
        ProbeMismatchError: another encoder than the probe's.
        ProbeError: a gene that the probe does not predict.
        PredictionError, PredictionExistsError, NucleiError, SlideError, EmbedError, StoreWriteError: see
            `check_output`, the functions of `cells`, `embed_patches` and `write_prediction`.
    """
    output = check_output(output, overwrite=overwrite)
    probe.check(encoder)
    mpp = slide.require_mpp()
    chosen = None if genes is None else probe.select(list(dict.fromkeys(genes)))
    trust = probe.trust(min_r) if chosen is None else probe.trust(min_r).iloc[chosen]
    cells = _cells(slide, centroids, progress)

    done = {"embeds": 0, "writes": 0}

    def report(what: str, more: int) -> None:
        done[what] += more
        if progress is not None:
            progress(what, done[what], len(cells.obs))

    features = embed_patches(
        slide,
        cells.centroids,
        list(cells.obs.index),
        encoder,
        batch_size,
        lambda more: report("embeds", more),
        output,
    )

    def values(part: slice) -> np.ndarray:
        made = probe.predict(features[part])
        return made if chosen is None else made[:, chosen]

    card = probe.card(min_r)
    manifest = {
        "kind": KIND,
        "format": FORMAT,
        "software": f"past-genex {version('past-genex')}",
        "use": card["use"],
        "synthetic": bool(probe.demo or encoder.demo),
        "slide": _name(slide),
        "training_slide": _name(slide) in probe.slides,
        "source": source_key(slide.path),
        "mpp": float(mpp),
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "space": encoder.space,
        "scale": card["scale"],
        "normalisation": card["normalisation"],
        "threshold": float(min_r),
        "segmenter": cells.segmenter,
        "segmenter_parameters": dict(cells.parameters),
        "probe": card,
    }
    write_prediction(
        output,
        cells,
        trust,
        values,
        manifest,
        mpp=mpp,
        overwrite=overwrite,
        progress=lambda more: report("writes", more),
    )
    sweep(output)
    return read_prediction(output)


def _name(slide: Slide) -> str:
    """A slide store's own name; of other slides that of the file."""
    return slide.store.name if isinstance(slide, StoredSlide) else slide.name


def _cells(slide: Slide, centroids: Path | None, progress: Progress | None) -> Cells:
    if centroids is not None:
        return listed_cells(slide, centroids)
    if isinstance(slide, StoredSlide):
        return stored_cells(slide)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("finds nuclei", done, total)

    return found_cells(slide, progress=report)
