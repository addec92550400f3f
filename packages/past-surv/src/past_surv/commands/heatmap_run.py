"""What `past heatmap` does: reads a patient, runs the network, writes images and patches."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.slides import Slide, open_slide
from past_surv.data.bag_files import commonest_step
from past_surv.data.bags import Bag
from past_surv.data.cohort import read_cohort
from past_surv.data.patient_slides import PatientSlides, case_of_slide, check_encoder, patient_slides
from past_surv.data.vector_files import read_vectors
from past_surv.figures.contact_sheet import SheetRow, contact_sheet, small
from past_surv.figures.heatmaps import PatchPainter, read_overview, write_heatmaps
from past_surv.models.attention import PatchAttention, patch_attention, top_patches
from past_surv.models.files import load_survival
from past_surv.models.inputs import gene_inputs

logger = logging.getLogger(__name__)

PATCH_PX = 224
"""Side of a patch that is cut out."""
ENDINGS = (".ome.tif", ".ome.tiff")
EVEN = 0.9
"""Share of all patches from which on attention that is spread over so many is called even."""


class HeatmapError(PastError, ValueError):
    """A heatmap that cannot be made as asked."""


@dataclass(frozen=True, kw_only=True)
class HeatmapRequest:
    """The options of `past heatmap`, by their names there."""

    slide: Path
    output: Path
    model: Path
    bag: Path
    cohort: Path | None = None
    case: str | None = None
    vectors: Path | None = None
    top: int = 6
    mpp: float | None = None
    out_mpp: float | None = None
    patch_um: float | None = None
    opacity: float = 0.5
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class MadeHeatmaps:
    """What was made.

    Attributes:
        files: that were written.
        heading: slide, patient and network.
        risk: of the patient.
        patches: of the patient, M.
        slides: of the patient that have a bag.
        lines: a line a group on how its attention is spread.
        notes: what the reader should know of missing slides and groups.
        demo: the stamp of bags of the demo encoder.
    """

    files: tuple[Path, ...]
    heading: str
    risk: float
    patches: int
    slides: int
    lines: tuple[str, ...]
    notes: tuple[str, ...]
    demo: str | None


def make_heatmaps(
    request: HeatmapRequest, *, progress: Callable[[int, int], None] | None = None
) -> MadeHeatmaps:
    """Makes the images, the contact sheet, the patches and their table; the images are put in place last.

    Raises:
        HeatmapError: outputs that are there, no cohort for a network with genes, a bag without places.
        ModelInputError, PatientSlideError, FigureError, BagError, SlideError, CohortError, VectorError,
            SurvivalFileError: see what they read.
    """
    from past_core.encoders.loading import resolve_device

    stem = _stem(request.output)
    files = request.output, Path(f"{stem}.png"), Path(f"{stem}.csv"), Path(f"{stem}-patches")
    there = [path for path in files if path.exists()]
    if there and not request.overwrite:
        raise HeatmapError(f"{there[0]} exists already; choose another name or pass --overwrite")
    loaded = load_survival(request.model)
    manifest = loaded.manifest
    if manifest["kind"] not in ("mcat", "mil"):
        raise HeatmapError(
            f"{request.model}: a network of kind {manifest['kind']}, which reads no slides; for its genes "
            "see `past attribution`"
        )
    case, slides, genes = _patient(request, manifest)
    own = patient_slides(request.bag, request.slide.name, slides)
    for bag in own.bags:
        check_encoder(bag, manifest)
    attention = patch_attention(
        loaded,
        own.features(),
        omics=genes and genes.omics,
        missing=None if genes is None else genes.missing,
        device=resolve_device(request.device),
    )
    place = "" if case is None else f", case {case}"
    heading = (
        f"{request.slide.name}{place}: {manifest['kind']} of {manifest['cohort']}, fold {manifest['fold']}"
    )
    with open_slide(request.slide, mpp=request.mpp) as slide:
        table, lines = _write(request, slide, own, attention, heading, manifest, progress)
    with replacing(files[2]) as temporary:
        table.to_csv(temporary, index=False)
    return MadeHeatmaps(
        files=files,
        heading=heading,
        risk=attention.risk,
        patches=attention.weights.shape[1],
        slides=len(own.bags),
        lines=tuple(lines),
        notes=tuple(_notes(own, attention)),
        demo=own.bags[own.shown].manifest.get("demo"),
    )


def _stem(output: Path) -> Path:
    ending = next((e for e in ENDINGS if output.name.lower().endswith(e)), None)
    if ending is None or len(output.name) == len(ending):
        raise HeatmapError(f"{output}: heatmaps are written as NAME.ome.tif; give the output that ending")
    return output.with_name(output.name[: -len(ending)])


def _patient(request: HeatmapRequest, manifest: dict[str, Any]) -> tuple[str | None, tuple[str, ...], Any]:
    """The case, all its slides, and its genes where the network reads some."""
    if request.cohort is None:
        if manifest["kind"] == "mcat":
            raise HeatmapError(
                f"{request.model}: MCAT asks the slide by the patient's genes; give the table with --cohort"
            )
        return request.case, (), None
    cohort = read_cohort(request.cohort)
    case = request.case or case_of_slide(cohort, request.slide.name)
    rows, slides = cohort.rows([case]), cohort.slides[case]
    if manifest["kind"] != "mcat":
        return case, slides, None
    vectors = None if request.vectors is None else read_vectors(request.vectors)
    return case, slides, gene_inputs(manifest, cohort, rows, vectors=vectors)


def _write(
    request: HeatmapRequest,
    slide: Slide,
    own: PatientSlides,
    attention: PatchAttention,
    heading: str,
    manifest: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> tuple[pd.DataFrame, list[str]]:
    bag, part = own.bags[own.shown], own.part
    places, side = _places(bag, slide, request.patch_um)
    overview = read_overview(slide, request.out_mpp)
    painter = PatchPainter(places, side, overview)
    weights, ranks = attention.weights[:, part], attention.percentiles()[:, part]
    spread = attention.effective_patches()
    rows, lines, records = [], [], []
    pictures: dict[str, np.ndarray] = {}
    field_um = _field_um(bag, side * slide.require_mpp())
    for number, name in enumerate(attention.names):
        first = top_patches(weights[number], places, request.top, apart=side)
        cut = slide.read_field(places[first], field_um, PATCH_PX)
        note = (
            f"{name}: attention spread over {spread[number]:,.1f} of {attention.weights.shape[1]:,} patches, "
            f"largest weight {attention.weights[number].max():.3g}"
        )
        lines.append(note)
        rows.append(
            SheetRow(
                name=name,
                note=note.partition(": ")[2].replace(", ", ",\n"),
                image=small(painter.paint(ranks[number], opacity=request.opacity)),
                patches=cut,
                captions=[f"{weights[number, row]:.2g}" for row in first],
            )
        )
        for place, row in enumerate(first, start=1):
            file = f"{number + 1:02d}-{_plain(name)}-{place}.png"
            pictures[file] = cut[place - 1]
            records.append(
                {
                    "group": name, "rank": place, "slide": bag.slide, "patch": int(row), "x": places[row][0],
                    "y": places[row][1], "weight": weights[number, row],
                    "percentile": 100 * ranks[number, row], "file": file,
                }
            )  # fmt: skip
    stem, total = _stem(request.output), len(attention.names)
    _write_patches(Path(f"{stem}-patches"), pictures)
    with replacing(Path(f"{stem}.png")) as temporary:
        contact_sheet(small(overview.image), rows, heading=heading).savefig(temporary, dpi=130)
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    facts = {"heading": heading, "risk": attention.risk, "encoder": manifest.get("encoder")}
    write_heatmaps(
        request.output,
        [
            (name, partial(painter.paint, values, opacity=request.opacity))
            for name, values in zip(attention.names, ranks, strict=True)
        ],
        mpp=overview.mpp,
        facts=facts | ({"demo": bag.manifest["demo"]} if bag.manifest.get("demo") else {}),
        progress=report,
    )
    return pd.DataFrame(records), lines


def _places(bag: Bag, slide: Slide, patch_um: float | None) -> tuple[np.ndarray, float]:
    """Centres of the patches, and the side in level-0 pixels of what is painted for each."""
    places = bag.coords()
    if places is None:
        raise HeatmapError(
            f"{bag.path}: it does not say where its patches are; give a bag with coords, as `past bags` "
            "writes it"
        )
    size = bag.manifest.get("slide_size")
    if size and list(size) != [slide.width, slide.height]:
        raise HeatmapError(
            f"{bag.path}: made of a slide of {size[0]} x {size[1]} pixels, {slide.name} has {slide.width} x "
            f"{slide.height}; give the slide that it was made of"
        )
    if patch_um is not None and not (np.isfinite(patch_um) and patch_um > 0):
        raise HeatmapError(f"--patch-um {patch_um}; expected a positive number of µm")
    if patch_um is None and bag.kind != "cells":  # cells overlap: a square of their spacing shows more
        patch_um = bag.patch_um
    if patch_um is not None:
        return places, patch_um / slide.require_mpp()
    side = None if bag.kind == "cells" else commonest_step(places)
    if side is None and len(places) > 1:
        from scipy.spatial import cKDTree

        side = float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))
    if not side:
        raise HeatmapError(f"{bag.path}: it does not say how large its patches are; give it with --patch-um")
    return places, side


def _field_um(bag: Bag, side_um: float) -> float:
    """What the encoder saw of a patch, in µm; the painted square where the bag does not say."""
    size = bag.manifest.get("patch_size")
    return float(size) * bag.mpp if size and bag.mpp else side_um


def _write_patches(folder: Path, pictures: dict[str, np.ndarray]) -> None:
    from PIL import Image

    with replacing(folder) as temporary:
        temporary.mkdir()
        for name, image in pictures.items():
            Image.fromarray(image.transpose(1, 2, 0)).save(temporary / name)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "group"


def _notes(own: PatientSlides, attention: PatchAttention) -> list[str]:
    notes = []
    if own.absent:
        notes.append(
            f"{len(own.absent)} more slides of the patient have no bag here ({', '.join(own.absent[:3])}): "
            "the attention is over the others alone"
        )
    if attention.lacking:
        asked = set(attention.lacking) <= set(attention.names)
        notes.append(
            f"the patient has no value of {', '.join(attention.lacking)}: "
            + ("the maps are those of the average patient" if asked else "no map of it")
        )
    even = attention.effective_patches() > EVEN * attention.weights.shape[1]
    if attention.weights.shape[1] > 1 and even.any():
        names = [name for name, flat in zip(attention.names, even, strict=True) if flat]
        notes.append(
            f"the attention of {', '.join(names)} is almost even over the patches: their colours order "
            "weights that hardly differ"
        )
    return notes
