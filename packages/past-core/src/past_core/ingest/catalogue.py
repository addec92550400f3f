"""Public Xenium slides with H&E, as a sheet that `past ingest` takes once they are downloaded.

`assets/xenium_he.csv` lists the vendor's datasets: facts from their pages, under the licence stated there.
Sections that may be of one donor share a patient, so that no split ever parts them; numbers of genes stand
where the panel's is known (that of a panel with an add-on is not). HEST-1k's entries are read from its own
table of metadata, which is not part of this package.
"""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.sheets import Line, SheetError, SheetNotFoundError, read_table

HEST_COLUMNS = (
    "id",
    "dataset_title",
    "organ",
    "disease_state",
    "oncotree_code",
    "species",
    "patient",
    "st_technology",
)
HEST_PAGE = "https://huggingface.co/datasets/MahmoodLab/hest"
VENDOR_PAGE = "https://www.10xgenomics.com/"
SPECIES = {"homo sapiens": "human", "mus musculus": "mouse"}
CANCERS = {
    "IDC": "breast",
    "ILC": "breast",
    "COAD": "colorectal",
    "READ": "colorectal",
    "COADREAD": "colorectal",
    "LUAD": "lung",
    "LUSC": "lung",
    "SKCM": "melanoma",
    "PAAD": "pancreas",
    "PRAD": "prostate",
    "HGSOC": "ovary",
    "GBM": "brain",
    "HCC": "liver",
    "PRCC": "kidney",
    "CCRCC": "kidney",
    "ALL": "leukaemia",
}
"""OncoTree's codes as the cancer types that stores are grouped by; another code stands for itself."""
POOLED = (
    "HEST pools the counts of Xenium into spots of many cells: for cells, ingest the bundle that the source "
    "offers"
)
_SECTION = re.compile(r"((?:VU|T)(?:HD|ILD)\d+)(?:MF|LF|[AB])?")
"""Names of sections of GSE250346: the donor, then which part of the lung."""
COLUMNS = (
    "slide",
    "bundle",
    "hest",
    "he",
    "mpp",
    "patient",
    "cancer",
    "organism",
    "organ",
    "disease",
    "preservation",
    "panel",
    "features",
    "licence",
    "source",
    "note",
)


class CatalogueError(PastError, ValueError):
    """A table of metadata that is not HEST's, nothing that fits, or a sheet that cannot be written."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One public slide.

    Attributes:
        id: Its name.
        organ: Where the tissue is from, lower case.
        cancer: The cancer type, empty where there is none.
        disease: In the words of the source.
        species: "human" or "mouse".
        patient: Slides of one donor share it.
        preservation: FFPE or fresh frozen.
        panel: The panel's name.
        features: Genes of the panel, or features of HEST's matrix (genes and controls); None if not known.
        section: Which of a page's slides it is.
        licence: Of the data.
        source: Page to get it from.
        hest: Whether it is laid out as HEST lays out its data, not as the vendor does.
        mpp: um per pixel of the H&E, where it is known.
    """

    id: str
    organ: str
    cancer: str = ""
    disease: str = ""
    species: str = "human"
    patient: str = ""
    preservation: str = ""
    panel: str = ""
    features: int | None = None
    section: str = ""
    licence: str = ""
    source: str = ""
    hest: bool = False
    mpp: float | None = None


def vendor_entries() -> list[Entry]:
    """The vendor's public Xenium datasets with H&E."""
    with as_file(files("past_core.ingest") / "assets" / "xenium_he.csv") as path:
        lines = read_table(path).lines
    found = []
    for line in lines:
        cells: dict[str, Any] = dict(line.cells)
        genes = cells.pop("genes")
        found.append(Entry(**cells, features=int(genes) if genes else None))
    return found


def hest_entries(path: str | Path) -> list[Entry]:
    """The Xenium entries of HEST-1k's metadata.

    An entry whose data the vendor offers is laid out as the vendor's bundle; the others as HEST's files.

    Args:
        path: HEST_v1_1_0.csv or another version's.

    Raises:
        SheetNotFoundError: No such file.
        CatalogueError: It is another table, or has no Xenium entry.
    """
    path = Path(path)
    try:
        sheet = read_table(path, required=HEST_COLUMNS)
    except SheetNotFoundError:
        raise
    except SheetError as error:
        raise CatalogueError(f"{error}. HEST's metadata is HEST_v1_1_0.csv at {HEST_PAGE}") from error
    found = [_hest_entry(line) for line in sheet.lines if line.cells["st_technology"].lower() == "xenium"]
    if not found:
        raise CatalogueError(f"{path}: none of {len(sheet.lines)} entries is of Xenium in st_technology")
    return found


def _hest_entry(line: Line) -> Entry:
    cells = line.cells
    title, organ, code = cells["dataset_title"], cells["organ"].lower(), cells["oncotree_code"]
    cancer = (CANCERS.get(code, code) or organ) if cells["disease_state"].lower() == "cancer" else ""
    source = cells.get("download_page_link1") or cells.get("study_link") or HEST_PAGE
    mpp = _number(cells.get("pixel_size_um_estimated", ""))
    features = _number(cells.get("nb_genes", ""))
    vendor = cells["id"].startswith("TENX") and source.startswith(VENDOR_PAGE)
    disease = cells.get("disease_comment") or cells["disease_state"]
    return Entry(
        id=cells["id"],
        organ=organ,
        cancer=cancer,
        disease=disease if not code or code in disease else f"{disease} ({code})",
        species=SPECIES.get(cells["species"].lower(), cells["species"].lower()),
        patient=_hest_patient(cells),
        preservation=cells.get("preservation_method", ""),
        panel=title,
        features=None if features is None else int(features),
        section=cells.get("subseries", ""),
        licence=cells.get("license") or "not stated",
        source=source,
        hest=not vendor,
        mpp=None if vendor else mpp,
    )


def _hest_patient(cells: dict[str, str]) -> str:
    """HEST numbers the patients of an organ and of a study; sections of GSE250346 are named by donor."""
    section = _SECTION.fullmatch(cells.get("subseries", ""))
    if section and cells["id"].startswith("NCBI"):
        return section[1]
    number = re.sub(r"\D", "", cells["patient"])
    if not number:
        return cells["id"]
    study = re.match(r"[A-Z]+", cells["id"])
    return f"{study[0] if study else 'HEST'}-{cells['organ'].lower().replace(' ', '-')}-{number}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def select(
    entries: Sequence[Entry],
    *,
    organ: str | None = None,
    cancer: str | None = None,
    species: str | None = None,
) -> list[Entry]:
    """Entries of an organ, a cancer ("any" for all cancers, "none" for tissue without), or a species.

    Raises:
        CatalogueError: Nothing fits.
    """
    found = list(entries)
    for name, wanted in (("organ", organ), ("cancer", cancer), ("species", species)):
        if wanted is None:
            continue
        text = wanted.strip().lower()
        values = sorted({getattr(entry, name).lower() for entry in found} - {""})
        if name == "cancer" and text in ("any", "none"):
            kept = [entry for entry in found if bool(entry.cancer) == (text == "any")]
        else:
            kept = [entry for entry in found if getattr(entry, name).lower() == text]
        if not kept:
            raise CatalogueError(
                f"no entry has the {name} {wanted!r}; there are {', '.join(values) or 'none'}"
                + (", and 'any' and 'none'" if name == "cancer" else "")
            )
        found = kept
    return found


def sheet_rows(entries: Iterable[Entry], root: str = "") -> list[dict[str, str]]:
    """Rows for `past ingest`, with the places that downloads are expected at.

    The vendor's: ROOT/ID holds the unpacked output bundle, the H&E and its alignment under their own names.
    HEST's: ROOT/st/ID.h5ad and ROOT/wsis/ID.tif.

    Args:
        entries: The slides.
        root: Folder of the downloads; by default that of the sheet.
    """
    base = f"{root.rstrip('/')}/" if root else ""
    rows = []
    for entry in entries:
        place = {
            "bundle": "" if entry.hest else f"{base}{entry.id}",
            "hest": f"{base}st/{entry.id}.h5ad" if entry.hest else "",
            "he": f"{base}wsis/{entry.id}.tif" if entry.hest else f"{base}{entry.id}/*he_image.ome.tif",
        }
        texts = {
            "slide": entry.id,
            "mpp": "" if entry.mpp is None else f"{entry.mpp:.6g}",
            "patient": entry.patient,
            "cancer": entry.cancer,
            "organism": entry.species,
            "organ": entry.organ,
            "disease": entry.disease,
            "preservation": entry.preservation,
            "panel": entry.panel,
            "features": "" if entry.features is None else str(entry.features),
            "licence": entry.licence,
            "source": entry.source,
            "note": "; ".join(filter(None, (entry.section, POOLED if entry.hest else ""))),
        }
        rows.append({name: (place | texts)[name] for name in COLUMNS})
    return rows


def write_sheet(entries: Iterable[Entry], path: str | Path, root: str = "") -> Path:
    """Writes the sheet.

    Raises:
        CatalogueError: It cannot be written, or would not be read as a sheet.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise CatalogueError(f"{path}: a sheet's name ends in .csv or .tsv")
    try:
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(
                file, COLUMNS, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", lineterminator="\n"
            )
            table.writeheader()
            table.writerows(sheet_rows(entries, root))
    except OSError as error:
        raise CatalogueError(f"{path} cannot be written ({error})") from error
    return path
