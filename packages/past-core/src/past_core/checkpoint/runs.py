"""Which checkpoint of a run folder is meant."""

import re
from pathlib import Path

from past_core.checkpoint.errors import CheckpointNotFoundError

FOLDER = "checkpoints"
PREFERRED = ("best", "last")
_VERSION = re.compile(r"version_(\d+)")


def is_run(folder: str | Path) -> bool:
    """Whether a folder is one that training writes: a run, one version of it, or its `checkpoints`."""
    folder = Path(folder)
    return folder.is_dir() and bool((folder / FOLDER).is_dir() or _versions(folder) or _own(folder))


def find_checkpoint(run: str | Path) -> tuple[Path, str]:
    """The checkpoint of a run that is meant: `best.ckpt`, else `last.ckpt`, of the newest version.

    Args:
        run: `runs/NAME`, `runs/NAME/version_3`, or the `checkpoints` in it.

    Returns:
        The file, and a sentence that says which it is.

    Raises:
        CheckpointNotFoundError: the run saved no checkpoint.
    """
    run = Path(run)
    versions = [] if (run / FOLDER).is_dir() else _versions(run)
    for folder in [run, *versions]:
        path = _own(folder / FOLDER) or _own(folder)
        if path is None:
            continue
        note = f"{path.relative_to(run)} of {run}"
        if folder is not run and len(versions) > 1:
            newest = "the newest" if folder == versions[0] else "the newest with a checkpoint"
            note += f": {folder.name} is {newest} of {len(versions)} versions"
        if not path.name.startswith(PREFERRED[0]):
            note += "; the run has no best.ckpt"
        return path, note
    looked = f" in any of {len(versions)} versions" if versions else ""
    raise CheckpointNotFoundError(
        f"{run}: no checkpoint{looked} (looked for {FOLDER}/best.ckpt and {FOLDER}/last.ckpt); "
        "has the training reached its first validation?"
    )


def _versions(folder: Path) -> list[Path]:
    """The versions of a run, newest first; by number, for a copied folder's times say nothing."""
    numbered = [(int(match[1]), path) for path in folder.glob("version_*") if (match := _version(path))]
    return [path for _, path in sorted(numbered, reverse=True)]


def _version(path: Path) -> re.Match[str] | None:
    return _VERSION.fullmatch(path.name) if path.is_dir() else None


def _own(folder: Path) -> Path | None:
    """The preferred checkpoint in a folder; `best-v2.ckpt`, of a run begun again, is after `best.ckpt`."""
    for stem in PREFERRED:
        pattern = re.compile(rf"{stem}(?:-v(\d+))?\.ckpt")
        found = [
            (int(m[1] or 0), path) for path in folder.glob("*.ckpt") if (m := pattern.fullmatch(path.name))
        ]
        if found:
            return max(found)[1]
    return None
