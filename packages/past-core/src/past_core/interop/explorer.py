"""Files that Xenium Explorer reads back: groups of cells, and where the H&E lies on the morphology image."""

import csv
import logging
import re
from pathlib import Path

import numpy as np

from past_core.atomic import replacing
from past_core.ingest.store import SlideStore
from past_core.interop.groups import ExportError, cell_groups, native_scale

logger = logging.getLogger(__name__)

GROUPS_FILE = "cell_groups.csv"
ALIGNMENT_FILE = "he_imagealignment.csv"
_CELL_ID = re.compile(r"[a-p]{8}-[0-9]+|[0-9]+")
"""Ids as bundles have them; before 1.3 they were numbers."""


def write_explorer(
    store: SlideStore,
    folder: Path,
    *,
    groups: str | None = None,
    every_cell: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Writes a folder for Xenium Explorer.

    `cell_groups.csv` (cell_id, group, color) is what the program takes as custom cell groups; a cell that is
    in no group is left out and stays unassigned. `he_imagealignment.csv` is the 3 x 3 matrix from pixels of
    the H&E file to morphology pixels, to be chosen when the H&E is added as an image.

    Args:
        store: A slide made of a Xenium bundle.
        folder: Made; what is there stays until the new one is whole.
        groups: Column of the table of cells; by default quality, `pass` or the reasons of a cell that failed.
        every_cell: With `groups`, also cells that failed quality control.
        overwrite: Replace a folder that an earlier export made.

    Returns:
        What the user should know about the files, a sentence each.

    Raises:
        ExportError: Not a Xenium slide, an output that exists, or groups that are none.
    """
    if store.assay != "xenium":
        raise ExportError(
            f"{store.path} is a slide of {store.assay}; Xenium Explorer shows its own bundles only: use "
            "--qupath"
        )
    foreign = next((name for name in store.cell_ids if not _CELL_ID.fullmatch(name)), None)
    if foreign is not None:
        raise ExportError(
            f"{store.path}: cell id {foreign!r} is none of a Xenium bundle (such as ffkpbaba-1), so that "
            "Xenium Explorer would find no cell; ingest the bundle itself, or use --qupath"
        )
    _check_output(folder, overwrite=overwrite)
    found = cell_groups(store, groups)
    written = (found.codes >= 0) & (store.passed if groups is not None and not every_cell else True)
    if not written.any():
        raise ExportError(
            f"{store.path}: no cell that passes has a value in {groups!r}; --all takes the others"
        )
    matrix, notes = _matrix(store)
    colours = ["#{:02X}{:02X}{:02X}".format(*colour) for colour in found.colours]
    with replacing(folder) as temporary:
        temporary.mkdir()
        with (temporary / GROUPS_FILE).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["cell_id", "group", "color"])
            ids = store.cell_ids
            table.writerows(
                (ids[row], found.names[found.codes[row]], colours[found.codes[row]])
                for row in np.flatnonzero(written)
            )
        if matrix is not None:
            np.savetxt(temporary / ALIGNMENT_FILE, matrix, delimiter=",", fmt="%.17g")
    left = int((~written).sum())
    head = f"{GROUPS_FILE}: {int(written.sum()):,} cells in {len(found.names)} groups"
    return [head + (f"; {left:,} others stay unassigned" if left else ""), *notes]


def _matrix(store: SlideStore) -> tuple[np.ndarray | None, list[str]]:
    """(3, 3) from pixels of the H&E file to morphology pixels, and what to say about it."""
    registration = store.manifest.get("registration") or {}
    if registration.get("matrix") is None:
        return None, [f"no {ALIGNMENT_FILE}: the store holds no matrix, for it was not made of a bundle"]
    scale = native_scale(store)
    matrix = np.asarray(registration["matrix"], np.float64) @ np.diag([1 / scale, 1 / scale, 1.0])
    notes = [f"{ALIGNMENT_FILE}: H&E pixels to morphology pixels"]
    if registration.get("correction") is not None:
        notes.append(
            "the registration has a local correction, which Xenium Explorer cannot take: the matrix is its "
            "rigid part, and cells can be a few µm off the H&E there"
        )
    return matrix, notes


def _check_output(folder: Path, *, overwrite: bool) -> None:
    if not (folder.exists() or folder.is_symlink()):
        return
    ours = folder.is_dir() and {file.name for file in folder.iterdir()} <= {GROUPS_FILE, ALIGNMENT_FILE}
    if not ours:
        raise ExportError(
            f"{folder} exists and is not a folder of an earlier export; choose another output (only such "
            "folders are ever replaced)"
        )
    if not overwrite:
        raise ExportError(f"{folder} exists; pass --overwrite to replace it, or choose another output")
