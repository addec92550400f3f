"""A pair: one H&E image, the immunohistochemistry of the same field, and what is known of them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from past_core.errors import PastError
from past_core.slides import SLIDE_SUFFIXES, Slide, open_slide

if TYPE_CHECKING:
    from past_core.nuclei.ihc4bc import IhcLabels

IMAGE_SUFFIXES = SLIDE_SUFFIXES
"""Endings of images; the longest that fits is cut off a name."""
LABEL_SUFFIXES = (".ome.tiff", ".ome.tif", ".tiff", ".tif", ".npy")
"""Endings of label images."""
MAX_DIFFERENCE = 0.01
"""Most by which a pair's two images may differ in height or width, as a share, for they are of one field."""


class PairError(PastError, ValueError):
    """Images that make no pair, or a folder or sheet of pairs that cannot be read."""


class PairNotFoundError(PastError, FileNotFoundError):
    """An image of a pair, or the folder of pairs, is not there."""


@dataclass(frozen=True)
class Pair:
    """One H&E image and the stained image of the same field.

    Attributes:
        case: the patient or specimen; all pairs of a case stay on one side of every split.
        stain: name of the stain, in lower case, as in `past_vihc.markers`.
        he: the H&E image.
        ihc: the stained image.
        mpp: µm per pixel of both images; None leaves it to what the files state.
        nuclei: label image of the nuclei over the same field; None segments the H&E where nuclei are needed.
        labels: counts and DAB by nucleus that came with IHC4BC.
        truth: table of the simulator's nuclei; only in the embedded default.
    """

    case: str
    stain: str
    he: Path
    ihc: Path
    mpp: float | None = None
    nuclei: Path | None = None
    labels: "IhcLabels | None" = None
    truth: Path | None = None

    @property
    def name(self) -> str:
        """Case, stain and H&E image, for messages and tables."""
        return f"{self.case} {self.stain} ({self.he.name})"


def image_stem(path: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> str | None:
    """An image's name without its ending, in any case of letters; None where it has no such ending."""
    lower = path.name.lower()
    for suffix in suffixes:
        if lower.endswith(suffix) and len(lower) > len(suffix) and not lower.startswith("."):
            return path.name[: -len(suffix)]
    return None


def images_in(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Images of a folder by name without ending, in order of name.

    Raises:
        PairError: two of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = image_stem(path, suffixes)
        if stem is None:
            continue
        if stem in found:
            raise PairError(f"{found[stem]} and {path} have one name; keep one of them")
        found[stem] = path
    return found


def check_case(case: str, where: str) -> str:
    """A case's name without surrounding blanks.

    Raises:
        PairError: it is empty or has a line break in it.
    """
    case = case.strip()
    if not case or re.search(r"[\r\n]", case):
        raise PairError(f"{where}: the case is {case!r}; expected a name on one line")
    return case


@dataclass(frozen=True)
class OpenPair:
    """Both images of a pair, opened.

    Attributes:
        pair: which pair.
        he: the H&E image, of known resolution.
        ihc: the stained image, likewise.
        field_um: height and width of the field that both show, in µm.
    """

    pair: Pair
    he: Slide
    ihc: Slide
    field_um: tuple[float, float]

    def close(self) -> None:
        """Closes both."""
        self.he.close()
        self.ihc.close()


def open_pair(pair: Pair, *, source_mpp: float | None = None) -> OpenPair:
    """Opens both images and compares their fields.

    Args:
        pair: which; its own `mpp` comes first.
        source_mpp: µm per pixel of images for which the pair says nothing; over what files state.

    Raises:
        PairNotFoundError: an image is not there.
        PairError: no resolution is known, or the two images are not of one field.
        SlideError: an image cannot be read: damaged, greyscale, 16-bit.
    """
    for kind, path in (("H&E", pair.he), (pair.stain.upper(), pair.ihc)):
        if not path.exists():
            raise PairNotFoundError(f"pair {pair.name}: its {kind} image {path} does not exist")
    mpp = pair.mpp if pair.mpp is not None else source_mpp
    he = open_slide(pair.he, mpp=mpp)
    try:
        ihc = open_slide(pair.ihc, mpp=mpp)
    except BaseException:
        he.close()
        raise
    opened = OpenPair(pair, he, ihc, _field(he))
    try:
        _check(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def _field(slide: Slide) -> tuple[float, float]:
    mpp = slide.mpp if slide.mpp is not None else float("nan")
    return slide.height * mpp, slide.width * mpp


def _check(opened: OpenPair) -> None:
    pair = opened.pair
    for slide in (opened.he, opened.ihc):
        if slide.mpp is None:
            raise PairError(
                f"pair {pair.name}: {slide.path} does not state its resolution; give it in µm per pixel with "
                "data.source_mpp, or in a column mpp of the sheet (20x is about 0.5, 40x about 0.25)"
            )
    he, ihc = np.array(opened.field_um), np.array(_field(opened.ihc))
    if (np.abs(he - ihc) > MAX_DIFFERENCE * he).any():
        raise PairError(
            f"pair {pair.name}: the H&E image {pair.he} shows {he[1]:.1f} x {he[0]:.1f} µm "
            f"({opened.he.width} x {opened.he.height} px at {opened.he.mpp:g}), the {pair.stain} image "
            f"{pair.ihc} "
            f"{ihc[1]:.1f} x {ihc[0]:.1f} µm ({opened.ihc.width} x {opened.ihc.height} px at "
            f"{opened.ihc.mpp:g}); a pair is two registered images of one field: register and crop them first"
        )
