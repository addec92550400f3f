"""Slides of the Genomic Data Commons: which files are of which patients, and a manifest for its client."""

import csv
import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.foreign.errors import ForeignError
from past_core.foreign.tables import read_csv
from past_surv.data.cohort import MAX_BYTES

logger = logging.getLogger(__name__)

Diagnostic = Literal["DX", "DX1", "all"]
COLUMNS = ("id", "filename", "md5", "size", "state")
"""Of a manifest of the GDC's client."""
FIELDS = {
    "id": ("id", "file_id"),
    "filename": ("file_name", "filename"),
    "md5": ("md5sum", "md5"),
    "size": ("file_size", "size"),
    "state": ("state",),
}
"""What the API, its TSV and a manifest call them."""
BARCODE = re.compile(
    r"^(?P<case>[A-Z0-9]+-[A-Z0-9]{2}-[A-Z0-9]{4})-(?P<sample>\d{2}[A-Z])-(?P<portion>\d{2})-"
    r"(?P<slide>[A-Z]{2}[A-Z0-9]+)(?=\.|$)"
)
"""A slide's barcode, such as TCGA-XX-XXXX-01Z-00-DX1, at the start of its file's name."""
MD5 = re.compile(r"[0-9a-f]{32}")


class GdcError(PastError, ValueError):
    """Listings, case ids or files that cannot be used."""


class GdcNotFoundError(PastError, FileNotFoundError):
    """No file of case ids, or no listing, is there."""


@dataclass(frozen=True, kw_only=True)
class GdcFile:
    """One file of the GDC.

    Attributes:
        id: its UUID.
        filename: of the slide.
        md5: of its content.
        size: in bytes.
        state: such as `released`.
        cases: submitter ids of its patients, such as TCGA-XX-XXXX.
    """

    id: str
    filename: str
    md5: str
    size: int
    state: str
    cases: tuple[str, ...]


def diagnostic_slides(names: Iterable[str], which: Diagnostic = "DX") -> list[str]:
    """The names of diagnostic slides: paraffin sections, not the frozen ones of sequenced tissue (TS, BS).

    Args:
        names: of slides or their files, such as TCGA-XX-XXXX-01Z-00-DX1.UUID.svs.
        which: `DX` keeps all diagnostic slides, `DX1` each patient's first, `all` everything. What is not
            named by a barcode is kept by `all` alone.

    Raises:
        GdcError: another choice.
    """
    if which not in ("DX", "DX1", "all"):
        raise GdcError(f"diagnostic {which!r}; expected DX, DX1 or all")

    def keeps(name: str) -> bool:
        match = BARCODE.match(Path(name).name)
        slide = match["slide"] if match else ""
        return slide == "DX1" if which == "DX1" else slide.startswith("DX")

    return [name for name in names if which == "all" or keeps(name)]


def read_cases(path: str | Path) -> list[str]:
    """Case ids, each once, of a cohort's table (column `case_id`) or of a text file with one a line.

    Raises:
        GdcNotFoundError: no such file.
        GdcError: no column, or no ids.
    """
    path = Path(path)
    if not path.is_file():
        raise GdcNotFoundError(
            f"{path}: no such file; expected a cohort's CSV, or a text with one case id a line"
        )
    if path.suffix.lower() in (".csv", ".tsv", ".zip", ".gz"):
        separator = "\t" if ".tsv" in path.suffixes else ","
        try:
            header = read_csv(path, max_bytes=MAX_BYTES, sep=separator, nrows=0, index_col=False)
            if "case_id" not in header:
                found = ", ".join(map(str, header.columns[:8]))
                raise GdcError(f"{path}: no column case_id; it has {found}")
            table = read_csv(path, max_bytes=MAX_BYTES, sep=separator, usecols=["case_id"], dtype=str)
            given = table["case_id"].dropna()
        except GdcError:
            raise
        except (ForeignError, OSError) as error:
            raise GdcError(f"{path}: not a readable table ({error})") from error
    else:
        try:
            given = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise GdcError(f"{path}: not a text of case ids ({error})") from error
    cases = list(dict.fromkeys(text for line in given if (text := line.strip())))
    if not cases:
        raise GdcError(f"{path}: no case ids in it")
    return cases


def read_listing(path: str | Path) -> list[GdcFile]:
    """Files as the GDC lists them: an answer of its API (JSON or TSV), or a manifest.

    Raises:
        GdcNotFoundError: no such file.
        GdcError: something else, or a file without id, name, md5 or size.
    """
    path = Path(path)
    if not path.is_file():
        raise GdcNotFoundError(f"{path}: no such listing; expected JSON or TSV of the GDC's API")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise GdcError(f"{path}: not a text ({error})") from error
    if text.lstrip()[:1] in ("{", "["):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise GdcError(f"{path}: damaged JSON ({error}); download the listing again") from error
        return [parse_file(hit, f"{path}, file {k}") for k, hit in enumerate(hits_of(content, str(path)), 1)]
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    if not rows or not any(name in rows[0] for name in FIELDS["filename"]):
        raise GdcError(
            f"{path}: neither JSON nor TSV of the GDC's API; expected columns such as id, file_name, md5sum, "
            "file_size, state, cases.0.submitter_id, or a manifest's"
        )
    return [parse_file(row, f"{path}, line {line}") for line, row in enumerate(rows, start=2)]


def hits_of(content: Any, source: str) -> Sequence[Mapping[str, Any]]:
    """The files of an answer of the API, or of a list of them.

    Raises:
        GdcError: neither.
    """
    if isinstance(content, Mapping):
        data = content.get("data")
        content = data.get("hits") if isinstance(data, Mapping) else None
    if not isinstance(content, list) or not all(isinstance(hit, Mapping) for hit in content):
        raise GdcError(f"{source}: no list of files in it (data.hits), as the GDC's API answers")
    return content


def parse_file(hit: Mapping[str, Any], source: str) -> GdcFile:
    """One file of a listing.

    Raises:
        GdcError: no id, name, md5 or size.
    """
    found = {
        column: next((hit[name] for name in names if hit.get(name) not in (None, "")), None)
        for column, names in FIELDS.items()
    }
    lacking = [FIELDS[name][0] for name in COLUMNS[:4] if found[name] is None]
    if lacking:
        raise GdcError(
            f"{source}: no {', '.join(lacking)}; ask the GDC for the fields {', '.join(API_FIELDS)}"
        )
    md5, size = str(found["md5"]).lower(), str(found["size"])
    if not MD5.fullmatch(md5) or not size.isdecimal():
        raise GdcError(f"{source}: md5sum {found['md5']!r}, file_size {size!r}; expected a sum and a number")
    for name in ("id", "filename", "state"):
        if re.search(r"[\t\r\n]", str(found[name])):
            raise GdcError(
                f"{source}: {FIELDS[name][0]} {str(found[name])!r} would break the manifest's lines"
            )
    return GdcFile(
        id=str(found["id"]),
        filename=str(found["filename"]),
        md5=md5,
        size=int(size),
        state=str(found["state"] or "released"),
        cases=_cases_of(hit, str(found["filename"])),
    )


API_FIELDS = ("file_id", "file_name", "md5sum", "file_size", "state", "cases.submitter_id")


def _cases_of(hit: Mapping[str, Any], filename: str) -> tuple[str, ...]:
    """Submitter ids as nested JSON or as columns of a TSV; else the barcode of the name."""
    nested = hit.get("cases")
    cases = [case.get("submitter_id") for case in nested if isinstance(case, Mapping)] if nested else []
    cases += [v for k, v in hit.items() if re.fullmatch(r"cases\.(\d+\.)?submitter_id", str(k))]
    known = tuple(dict.fromkeys(str(case) for case in cases if case))
    match = BARCODE.match(filename)
    return known or ((match["case"],) if match else ())


def choose_files(
    files: Iterable[GdcFile], cases: Collection[str], *, diagnostic: Diagnostic = "DX"
) -> tuple[list[GdcFile], list[str]]:
    """The slides of some patients.

    Args:
        files: of a listing; what is no SVS is left out, and what is listed twice taken once.
        cases: submitter ids.
        diagnostic: see `diagnostic_slides`.

    Returns:
        the files in the order of their names, and the cases without any.

    Raises:
        GdcError: none of the cases has a file, or one file is listed with two contents.
    """
    wanted = set(cases)
    chosen: dict[str, GdcFile] = {}
    for file in files:
        slide = file.filename.lower().endswith(".svs") and diagnostic_slides([file.filename], diagnostic)
        if not slide or not wanted.intersection(file.cases):
            continue
        other = chosen.setdefault(file.id, file)
        if (other.md5, other.size) != (file.md5, file.size):
            raise GdcError(f"file {file.id} ({file.filename}) is listed twice, with different sums or sizes")
    having = {case for file in chosen.values() for case in file.cases}
    without = [case for case in cases if case not in having]
    if not chosen:
        raise GdcError(
            f"none of {len(cases)} cases has a slide ({diagnostic}) in the listing, such as "
            f"{', '.join(without[:3])}; case ids are submitter ids, such as TCGA-XX-XXXX"
        )
    return sorted(chosen.values(), key=lambda file: (file.filename, file.id)), without


def write_manifest(path: str | Path, files: Sequence[GdcFile], *, overwrite: bool = False) -> Path:
    """Writes a manifest: `gdc-client download -m MANIFEST` downloads its files, each into a folder of its id.

    Raises:
        GdcError: something is there already.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise GdcError(f"{path} exists already; choose another name or pass --overwrite")
    rows = [[file.id, file.filename, file.md5, str(file.size), file.state] for file in files]
    with replacing(path) as temporary:
        temporary.write_text(
            "".join("\t".join(row) + "\n" for row in [list(COLUMNS), *rows]), encoding="utf-8"
        )
    return path
