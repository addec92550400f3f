"""IHC4BC (ihc4bc.github.io, CC BY-NC-SA 4.0): about 90,000 registered pairs of 3000 x 3000 px patches.

Patches are named `xxx_caseid_regionindex_rowindex_colindex.png`. They are cut with a stride of half their
side, so that neighbours overlap by half and only whole cases may be split. A CSV for each stain has a line
for each
patch: its name, a flag (`a` reliable, `0` set to zero, `d` discarded), the number of nuclei in the H&E patch,
    and
the mean DAB of every nucleus in the IHC patch.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from past_core.nuclei.ihc4bc import IhcLabels, read_ihc4bc
from past_vihc.data.pairs import Pair, PairError, PairNotFoundError, image_stem
from past_vihc.markers import MARKERS

logger = logging.getLogger(__name__)

NAME = re.compile(r"(?:.*_)?(?P<case>[^_]+)_(?P<region>\d+)_(?P<row>\d+)_(?P<column>\d+)")
PATCH_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_SPLIT = re.compile(r"[^a-z0-9&]+")


class _Patch(NamedTuple):
    case: str
    region: int
    row: int
    column: int


def patch_of(path: Path) -> _Patch | None:
    """Case, region, row and column of a patch's name; None where it is none."""
    stem = image_stem(path, PATCH_SUFFIXES)
    match = NAME.fullmatch(stem) if stem is not None else None
    return (
        None
        if match is None
        else _Patch(match["case"], *(int(match[n]) for n in ("region", "row", "column")))
    )


def is_ihc4bc(root: Path) -> bool:
    """Whether a folder holds IHC4BC: more than half of its images are named so."""
    if not root.is_dir():
        return False
    images = list(_images(root))
    return bool(images) and 2 * sum(patch_of(path) is not None for path in images) > len(images)


def ihc4bc(root: str | Path) -> list[Pair]:
    """Pairs of IHC4BC; those that are flagged `d` are left out, and logged.

    Folders are told by the words in their names, whatever their order: `he` (or `h&e`) and a stain, as in
    `ER/HE/` and `ER/IHC/`, or `HE/` (for all stains) and `ER/`. Label files are `*.csv` with the stain in
    their name or their folder's. The case is the name's: the same number under two stains is taken for one
    case, which at worst holds more together than need be.

    Args:
        root: the folder.

    Returns:
        Pairs in order of case, region, row, column and stain, with their labels where a label file names
        them.

    Raises:
        PairNotFoundError: no such folder.
        PairError: no pairs, a patch without its partner (both are named), a name that is not IHC4BC's, or a
            folder that names no stain.
        IhcLabelError: a label file that cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise PairNotFoundError(f"{root}: no such folder of IHC4BC")
    he: dict[tuple[str | None, _Patch], Path] = {}
    ihc: dict[tuple[str, _Patch], Path] = {}
    for path in _images(root):
        patch = patch_of(path)
        if patch is None:
            raise PairError(f"{path}: expected a name such as xxx_caseid_regionindex_rowindex_colindex.png")
        is_he, stain = _kind(path.parent.relative_to(root))
        if is_he:
            _put(he, (stain, patch), path)
        elif stain is not None:
            _put(ihc, (stain, patch), path)
        else:
            raise PairError(
                f"{path}: no folder names what it is; expected HE, or a stain: {', '.join(MARKERS)}"
            )
    labels = _labels(root)
    pairs, used, discarded = [], set(), []
    for (stain, patch), path in sorted(ihc.items(), key=lambda item: (item[0][1], item[0][0])):
        key: tuple[str | None, _Patch] = (stain, patch) if (stain, patch) in he else (None, patch)
        if key not in he:
            raise PairError(f"{path} has no H&E patch: expected {_partner(root, 'HE', stain, path)}")
        used.add(key)
        own = labels.get((stain, patch))
        if own is not None and own.flag == "d":
            discarded.append(path)
            continue
        pairs.append(Pair(patch.case, stain, he[key], path, labels=own))
    lonely = sorted((path for key, path in he.items() if key not in used), key=str)
    if lonely:
        raise PairError(
            f"{lonely[0]} has no stained patch: expected {_partner(root, 'STAIN', None, lonely[0])}"
        )
    if discarded:
        logger.warning(
            "%s: %d of %d pairs are flagged d (discarded) and left out, the first %s",
            *(root, len(discarded), len(discarded) + len(pairs), discarded[0]),
        )
    if not pairs:
        raise PairError(
            f"{root}: no pairs of IHC4BC that are not discarded; expected HE/ and ER/ with patches"
        )
    return pairs


_Key = TypeVar("_Key")


def _put(side: dict[_Key, Path], key: _Key, path: Path) -> None:
    if key in side:
        raise PairError(f"{side[key]} and {path} are the same patch; keep one of them")
    side[key] = path


def _images(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if image_stem(path, PATCH_SUFFIXES) is not None)


def _kind(folder: Path) -> tuple[bool, str | None]:
    """Whether a path names H&E, and which stain."""
    words = [word for part in folder.parts for word in _SPLIT.split(part.lower())]
    stain = next((word for word in words if word in MARKERS), None)
    return "he" in words or "h&e" in words, stain


def _partner(root: Path, kind: str, stain: str | None, path: Path) -> str:
    folder = f"{stain.upper()}/{kind}" if stain else kind
    return f"{root / folder / path.name}"


def _labels(root: Path) -> dict[tuple[str, _Patch], IhcLabels]:
    found: dict[tuple[str, _Patch], IhcLabels] = {}
    for path in sorted(root.rglob("*.csv")):
        _, stain = _kind(path.relative_to(root).with_suffix(""))
        if stain is None:
            logger.warning("%s: its name has no stain in it (%s); not read", path, ", ".join(MARKERS))
            continue
        for name, labels in read_ihc4bc(path).items():
            patch = patch_of(Path(name if image_stem(Path(name), PATCH_SUFFIXES) else f"{name}.png"))
            if patch is None:
                logger.warning("%s: %s is no name of a patch; not used", path, name)
                continue
            found[stain, patch] = labels
    return found
