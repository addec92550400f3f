"""Pairs from folders and sheets."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from past_core.sheets import read_table
from past_vihc.data.pairs import (
    LABEL_SUFFIXES,
    Pair,
    PairError,
    PairNotFoundError,
    check_case,
    image_stem,
    images_in,
)
from past_vihc.markers import MARKERS, MarkerError, marker

logger = logging.getLogger(__name__)

SHEET = "pairs.csv"
REQUIRED, OPTIONAL = ("case", "stain", "he", "ihc"), ("mpp", "nuclei")
NUCLEI = "nuclei"
_RUNNING = re.compile(r"([_\-. ]+[xyrc]?\d+)+$", re.IGNORECASE)
"""What tells the patches of one specimen apart in most names: numbers at the end."""


def paired_folders(root: str | Path, *, case_pattern: str | None = None) -> list[Pair]:
    """Pairs of a folder, by the first of these that is there.

    1. `pairs.csv`, a sheet: see `read_pairs`. `root` may be the sheet itself, by any name.
    2. `he/NAME.ext` and `STAIN/NAME.ext`, label images of nuclei in `nuclei/NAME.tif` (or `.npy`). Instead of
       NAME there may be `CASE/NAME`. Without a folder CASE and without a pattern, NAME is the case.
    3. `CASE/he.ext` and `CASE/ihc_STAIN.ext`, nuclei in `CASE/nuclei.tif`.

    Args:
        root: the folder, or a sheet.
        case_pattern: regular expression that finds the case in NAME: its first group, else all that it
            matches.

    Returns:
        Pairs in order of case, name and stain.

    Raises:
        PairNotFoundError: no such folder, or files of a sheet that are not there.
        PairError: no pairs, an image without its partner (both are named), a stain that is not known, a
            pattern that does not fit a name.
    """
    root = Path(root)
    if not root.exists():
        raise PairNotFoundError(f"{root}: no such folder of pairs")
    if root.is_file():
        return read_pairs(root)
    if (root / SHEET).is_file():
        return read_pairs(root / SHEET)
    flat = (root / "he").is_dir()
    pairs = list(_by_stain(root, _pattern(case_pattern)) if flat else _by_case(root))
    if not pairs:
        raise PairError(
            f"{root}: no pairs found; expected {SHEET}, he/NAME.png with STAIN/NAME.png, or CASE/he.png with "
            f"CASE/ihc_STAIN.png, where STAIN is one of {', '.join(MARKERS)}"
        )
    return sorted(pairs, key=lambda pair: (pair.case, pair.he.name, pair.stain))


def read_pairs(path: str | Path) -> list[Pair]:
    """Reads a sheet: a CSV with the columns case, stain, he, ihc and optionally mpp and nuclei.

    Paths count from the sheet's folder; absolute ones are taken as they are.

    Raises:
        PairNotFoundError: no such sheet, or files that are not there, by row.
        PairError: missing columns, no rows, or a row that cannot be, by row.
    """
    path = Path(path)
    sheet = read_table(
        path,
        required=REQUIRED,
        expected=f"{', '.join(REQUIRED)} and optionally {', '.join(OPTIONAL)}",
        lower=True,
        error=PairError,
        missing=PairNotFoundError,
    )
    pairs, missing = [], []
    for line in sheet.lines:
        pair = _row(path, line.number, line.cells)
        files = [pair.he, pair.ihc, *([pair.nuclei] if pair.nuclei else [])]
        missing += [f"row {line.number}: {file}" for file in files if not file.exists()]
        pairs.append(pair)
    if missing:
        more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise PairNotFoundError(f"{path}: files that do not exist: {'; '.join(missing[:5])}{more}")
    _refuse_twice(path, pairs)
    return pairs


def stain_name(name: str, where: object) -> str:
    """The marker's own name for a folder, file or cell that names a stain.

    Raises:
        PairError: no such marker.
    """
    try:
        return marker(name).name
    except MarkerError as error:
        raise PairError(f"{where}: {error}") from error


def _row(path: Path, line: int, cells: dict[str, str]) -> Pair:
    where = f"{path}, row {line}"
    for column in REQUIRED:
        if not cells[column]:
            raise PairError(f"{where}: the column {column!r} is empty")
    mpp = None
    if cells.get("mpp"):
        try:
            mpp = float(cells["mpp"])
        except ValueError:
            mpp = float("nan")
        if not (np.isfinite(mpp) and mpp > 0):
            raise PairError(f"{where}: mpp {cells['mpp']!r} is not a positive number of µm per pixel")
    return Pair(
        case=check_case(cells["case"], where),
        stain=stain_name(cells["stain"], where),
        he=path.parent / cells["he"],
        ihc=path.parent / cells["ihc"],
        mpp=mpp,
        nuclei=path.parent / cells["nuclei"] if cells.get("nuclei") else None,
    )


def _refuse_twice(path: Path, pairs: list[Pair]) -> None:
    seen: set[tuple[Path, str]] = set()
    for pair in pairs:
        key = (pair.he.resolve(), pair.stain)
        if key in seen:
            raise PairError(f"{path}: {pair.he} is listed twice for {pair.stain}; list every pair once")
        seen.add(key)


def _by_stain(root: Path, pattern: re.Pattern[str] | None) -> Iterator[Pair]:
    he = _named(root / "he")
    nuclei = _named(root / NUCLEI, LABEL_SUFFIXES) if (root / NUCLEI).is_dir() else {}
    stains = {
        folder: stain_name(folder.name, folder)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name not in ("he", NUCLEI) and not folder.name.startswith(".")
    }
    without = set(he)
    for folder, stain in stains.items():
        for name, path in _named(folder).items():
            if name not in he:
                raise PairError(
                    f"{path} has no H&E image: expected {root / 'he' / '/'.join(name)} with any ending"
                )
            without.discard(name)
            yield Pair(_case_of(name, pattern, path), stain, he[name], path, nuclei=nuclei.get(name))
    if without:
        name = min(without)
        partners = (
            " or ".join(str(folder / "/".join(name)) for folder in stains) or f"{root}/STAIN/{name[-1]}"
        )
        raise PairError(f"{he[name]} has no stained image: expected {partners} with any ending")
    if pattern is None and he:
        _warn_of_patches(root, list(he))


def _named(folder: Path, suffixes: tuple[str, ...] | None = None) -> dict[tuple[str, ...], Path]:
    """Images by (NAME,) and by (CASE, NAME)."""
    options = () if suffixes is None else (suffixes,)
    found: dict[tuple[str, ...], Path] = {(name,): path for name, path in images_in(folder, *options).items()}
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and image_stem(inner) is None and not inner.name.startswith("."):
            found |= {(inner.name, name): path for name, path in images_in(inner, *options).items()}
    return found


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise PairError(f"data.case_pattern {text!r} is no regular expression: {error}") from error


def _case_of(name: tuple[str, ...], pattern: re.Pattern[str] | None, path: Path) -> str:
    if pattern is None:
        return check_case(name[0], str(path))
    match = pattern.search(name[-1])
    if match is None:
        raise PairError(f"{path}: data.case_pattern {pattern.pattern!r} does not fit its name {name[-1]!r}")
    return check_case((match[1] if pattern.groups else match[0]) or "", str(path))


def _warn_of_patches(root: Path, names: list[tuple[str, ...]]) -> None:
    """Names that differ in their last numbers alone are often patches of one specimen."""
    flat = [name[0] for name in names if len(name) == 1]
    stems = {_RUNNING.sub("", name) for name in flat}
    if len(stems) < len(flat):
        logger.warning(
            "%s: each of %d images is taken for a case of its own, though their names without the numbers at "
            "the "
            "end are only %d; if those are patches of one patient, say so with data.case_pattern or folders "
            "he/CASE/, or training and test share patients",
            root,
            len(flat),
            len(stems),
        )


def _by_case(root: Path) -> Iterator[Pair]:
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith(".") or image_stem(folder) is not None:
            continue
        found = images_in(folder)
        stained = {name: path for name, path in found.items() if name.lower().startswith("ihc_")}
        if "he" not in found:
            if stained:
                raise PairError(
                    f"{min(stained.values())} has no H&E image: expected {folder / 'he'} with any ending"
                )
            continue
        if not stained:
            raise PairError(
                f"{found['he']} has no stained image: expected {folder / 'ihc_STAIN'} with any ending"
            )
        nuclei = images_in(folder, LABEL_SUFFIXES).get(NUCLEI)
        for name, path in stained.items():
            case = check_case(folder.name, str(folder))
            yield Pair(case, stain_name(name[4:], path), found["he"], path, nuclei=nuclei)
