"""Which reader opens which slide."""

import json
from pathlib import Path

from past_core.errors import PastError
from past_core.formats import SLIDES as SUPPORTED
from past_core.remote import Location, RemotePath, locate
from past_core.slides.errors import SlideError, SlideNotFoundError
from past_core.slides.kinds import PLAIN_MAGIC, TIFF_MAGIC
from past_core.slides.slide import Slide

OURS = (None, "generic-tiff", "aperio")
"""openslide's names of the TIFFs that our own reader opens; what is not among them needs openslide."""
UNREADABLE = {
    ".isyntax": "Philips iSyntax (its vendor's converter writes Philips TIFF, which is read)",
    ".vsi": "Olympus VSI (bfconvert writes OME-TIFF, which is read)",
}


def open_slide(path: str | Location, *, mpp: float | None = None) -> Slide:
    """Opens a slide of any supported kind; what it is, is told from its content.

    Args:
        path: an SVS, a tiled, stripped or pyramidal TIFF, an OME-TIFF, a PNG, a JPEG; a scanner's NDPI, MRXS,
            SCN, BIF, VMS, CZI, Philips TIFF or whatever else openslide reads (of DICOM one file of the series
            or its folder); an OME-Zarr folder, or a slide store that `past ingest` wrote. The last two also
            by URL: s3://, gs://, http(s)://.
        mpp: µm per level-0 pixel, overriding what the file states.

    Raises:
        SlideNotFoundError: nothing is there.
        SlideError: truncated, damaged, not an RGB image, or a format that is not read.
        RemoteError: a URL that cannot be reached, or may not be read.
    """
    path = locate(path)
    if isinstance(path, RemotePath):
        return _open_remote(path, mpp)
    if not path.exists():
        raise SlideNotFoundError(f"{path}: no such slide; expected one of {SUPPORTED}")
    if path.is_dir():
        return _open_folder(path, mpp)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error}") from error
    if not head:
        raise SlideError(f"{path}: the file is empty (0 bytes); expected one of {SUPPORTED}")
    plain = head.startswith(tuple(PLAIN_MAGIC))
    if plain and path.suffix.lower() != ".mrxs":  # the file that names an MRXS slide is a JPEG itself
        from past_core.slides.plain import PlainSlide

        return PlainSlide(path, mpp=mpp)
    from past_core.slides.openslide import OpenSlideSlide, detect_vendor

    vendor = detect_vendor(path)
    if vendor not in OURS:
        return OpenSlideSlide(path, mpp=mpp)
    if head.startswith(TIFF_MAGIC):
        from past_core.slides.tiff import TiffSlide, ycbcr_jpeg2000

        if vendor == "aperio" and ycbcr_jpeg2000(path):
            return OpenSlideSlide(path, mpp=mpp)
        return TiffSlide(path, mpp=mpp)
    raise SlideError(f"{path}: {_why_not(path, head)}")


def _why_not(path: Path, head: bytes) -> str:
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        return (
            f"not a complete MRXS slide: expected the folder {path.with_suffix('')} beside it, with "
            "Slidedat.ini, and the ending .mrxs in lower case"
        )
    if suffix in UNREADABLE:
        return f"a format that is not read: {UNREADABLE[suffix]}. Expected one of {SUPPORTED}"
    return f"not an image that PAST knows (it begins with {head[:8]!r}); expected one of {SUPPORTED}"


def _open_remote(path: RemotePath, mpp: float | None) -> Slide:
    try:
        attributes = read_attributes(path)
    except SlideError as error:
        raise SlideError(f"{error}; upload it again") from error
    if attributes:
        return _open_group(path, attributes, mpp)
    if path.is_file():
        raise SlideError(
            f"{path}: only slide stores and OME-Zarr are read from a URL, by the region; "
            "copy this file to local disk first"
        )
    raise SlideNotFoundError(
        f"{path}: no slide there (no zarr.json or .zattrs); is it uploaded, and the URL right?"
    )


def _open_folder(path: Path, mpp: float | None) -> Slide:
    attributes = read_attributes(path)
    if not attributes:
        for file in sorted(path.glob("*.dcm")):
            from past_core.slides.openslide import OpenSlideSlide, detect_vendor

            if detect_vendor(file) == "dicom":
                slide = OpenSlideSlide(file, mpp=mpp)  # finds the other files of its series
                slide.name = path.name
                return slide
    return _open_group(path, attributes, mpp)


def _open_group(path: Location, attributes: dict, mpp: float | None) -> Slide:
    if "past" in attributes:
        from past_core.slides.stored import StoredSlide

        return StoredSlide(path, mpp=mpp)
    from past_core.slides.omezarr import OmeZarrSlide

    if _multiscales(attributes):
        return OmeZarrSlide(path, attributes, mpp=mpp)
    # A SpatialData store holds its images in `images/`, a converted whole slide its first series in `0/`.
    if "bioformats2raw.layout" in _ngff(attributes):
        candidates = [path / "0"]
    elif isinstance(path, RemotePath):  # a listing might take minutes
        raise SlideError(f"{path}: holds no image of its own; name one in it, as in {path / 'images/NAME'}")
    else:
        candidates = [folder for folder in sorted(path.glob("images/*")) if folder.is_dir()]
    found = [(c, a) for c in candidates if _multiscales(a := read_attributes(c))]
    if len(found) == 1:
        return OmeZarrSlide(*found[0], mpp=mpp)
    if found:
        names = ", ".join(f"{candidate.parent.name}/{candidate.name}" for candidate, _ in found)
        raise SlideError(f"{path}: holds several images ({names}); name one of them, as in {found[0][0]}")
    raise SlideError(
        f"{path}: a folder without OME-Zarr image metadata (multiscales); expected one of {SUPPORTED}"
    )


def read_attributes(path: Location) -> dict:
    """Attributes of a zarr group, version 3 or 2; empty where there are none.

    Raises:
        SlideError: the metadata is not valid JSON.
        RemoteError: a URL that cannot be reached, or may not be read.
    """
    for name, key in (("zarr.json", "attributes"), (".zattrs", None)):
        file = path / name
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PastError:
            raise
        except (ValueError, RecursionError, OSError) as error:
            raise SlideError(f"{file}: not valid zarr metadata ({error}); the store is truncated") from error
        attributes = content.get(key, {}) if key and isinstance(content, dict) else content
        if not isinstance(attributes, dict):
            raise SlideError(
                f"{file}: zarr attributes should be an object, found {type(attributes).__name__}"
            )
        return attributes
    return {}


def _ngff(attributes: dict) -> dict:
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, dict) else {}


def _multiscales(attributes: dict) -> list:
    multiscales = _ngff(attributes).get("multiscales")
    return multiscales if isinstance(multiscales, list) else []
