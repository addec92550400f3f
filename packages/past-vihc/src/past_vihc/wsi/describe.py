"""What an output says about itself, as OME-XML or as plain text, and reading it back."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr, unescape

from past_core.slides import SlideError

NAMESPACE = "past-vihc/virtual-stain"
"""Of the annotation in OME-XML, and of the entry in an OME-Zarr's attributes."""
USE = "Virtual stain, research use only: computed from H&E by a network, not a stained section."
DEMO = "Made with the demo generator, which was trained on synthetic tissue: for trying out only."
JSON = "json"
"""Key of the annotation's entry that holds the whole record."""
_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def sentence(record: Mapping[str, Any]) -> str:
    """One paragraph for people."""
    model = f"{record['model']} ({str(record['model_fingerprint'])[:16]})"
    parts = [USE, f"Stain: {record['stain']}.", f"Source: {record['slide']}.", f"Model: {model}."]
    return " ".join([*parts, f"{record['software']}.", *([DEMO] if record.get("demo") else [])])


def ome_xml(record: Mapping[str, Any], *, height: int, width: int, mpp: float) -> str:
    """OME-XML of one RGB image; the record is in it as a map annotation.

    Nothing in it depends on when or where it is written. Source: OME schema 2016-06.

    Args:
        record: what is known about the image, plain values by name.
        height: of the image in pixels.
        width: likewise.
        mpp: µm per pixel.
    """
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
    texts[JSON] = json.dumps(dict(record), sort_keys=True)
    entries = "".join(f"<M K={quoteattr(key)}>{escape(value)}</M>" for key, value in texts.items())
    name = quoteattr(f"{record['slide']}, virtual {record['stain']}")
    size = f'SizeX="{width}" SizeY="{height}" SizeC="3" SizeZ="1" SizeT="1"'
    physical = "".join(f' PhysicalSize{a}="{mpp!r}" PhysicalSize{a}Unit="µm"' for a in "XY")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<OME xmlns="{_OME}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_OME} {_OME}/ome.xsd" Creator={quoteattr(str(record["software"]))}>'
        f'<Image ID="Image:0" Name={name}><Description>{escape(sentence(record))}</Description>'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" BigEndian="false" Interleaved="true" '
        f'{size}{physical}><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels><AnnotationRef ID="Annotation:0"/></Image>'
        f'<StructuredAnnotations><MapAnnotation ID="Annotation:0" Namespace="{NAMESPACE}">'
        f"<Value>{entries}</Value></MapAnnotation></StructuredAnnotations></OME>"
    )


def plain_text(record: Mapping[str, Any]) -> str:
    """A sentence, and the record as one line of JSON."""
    return f"{sentence(record)}\n{json.dumps(dict(record), sort_keys=True)}"


def read_record(path: str | Path) -> dict[str, Any] | None:
    """The record of a virtual stain that was written; None where the file is another kind of image.

    Raises:
        SlideError: not a TIFF or OME-Zarr that can be read.
    """
    path = Path(path)
    if path.is_dir():
        from past_core.slides.opening import read_attributes

        found = read_attributes(path).get(NAMESPACE)
        return found if isinstance(found, dict) else None
    import tifffile

    from past_core.slides.tiff import DAMAGE

    try:
        with tifffile.TiffFile(path) as file:
            text = file.pages.first.description
    except DAMAGE as error:
        raise SlideError(f"{path}: not a TIFF that can be read ({error})") from error
    try:
        if text.startswith("<?xml") and NAMESPACE in text:
            entry = re.search(rf'<M K="{JSON}">([^<]*)</M>', text)
            return json.loads(unescape(entry[1])) if entry else None
        if text.startswith(USE):
            return json.loads(text.split("\n", 1)[1])
    except (ValueError, RecursionError, IndexError) as error:
        raise SlideError(f"{path}: its description is damaged ({error})") from error
    return None
