"""Where a checkpoint is: a path, a run, the one that comes with the package, or a repository of the hub."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from past_core.checkpoint.errors import CheckpointError, CheckpointNotFoundError
from past_core.checkpoint.folder import CONFIG
from past_core.checkpoint.runs import find_checkpoint, is_run

DEMO = "demo"


@dataclass(frozen=True)
class Located:
    """A checkpoint on this machine.

    Attributes:
        path: a `.ckpt`, a `.safetensors` or an export folder.
        name: what it was asked for as.
        note: a sentence on which was chosen, or empty where there was no choice.
        hub: `repository` and `commit`, where it came from the hub.
        demo: whether it is the one that comes with the package.
    """

    path: Path
    name: str
    note: str = ""
    hub: Mapping[str, str] = field(default_factory=dict)
    demo: bool = False


def locate(name_or_path: str | Path, *, revision: str | None = None) -> Located:
    """Finds a checkpoint; one of the hub is fetched into its cache where it is not there yet.

    Args:
        name_or_path: see `load_model`.
        revision: of a hub repository.

    Raises:
        CheckpointNotFoundError: nothing there.
        CheckpointError: a folder that holds no checkpoint, or a revision of what is not on the hub.
        HubNotFoundError, HubAccessError, HubUnavailableError: see `load_model`.
    """
    from past_core.hub import fetch_snapshot, parse_hub_id

    name, path = str(name_or_path), Path(name_or_path)
    known = name == DEMO or path.exists()
    hub_id = None if known or isinstance(name_or_path, Path) else parse_hub_id(name)
    if hub_id is not None:
        snapshot = fetch_snapshot(hub_id, revision=revision)
        note = f"{snapshot.repository} at commit {snapshot.commit}"
        return Located(
            snapshot.folder, name, note, {"repository": snapshot.repository, "commit": snapshot.commit}
        )
    if revision is not None:
        raise CheckpointError(f"{name} is no repository of the hub: it has no revision {revision!r}")
    if name == DEMO:
        return Located(_demo(), name, demo=True)
    if path.is_dir() and not (path / CONFIG).is_file():
        if not is_run(path):
            raise CheckpointError(
                f"{path}: neither a folder of `past export` (no config.json in it) nor a run of "
                "training (no checkpoints/ in it)"
            )
        found, note = find_checkpoint(path)
        return Located(found, name, note)
    if not path.exists():
        raise CheckpointNotFoundError(
            f"{name}: no such checkpoint; give a .ckpt or run folder of training, a file or folder of "
            "`past export`, a repository of the hub as OWNER/NAME, or demo"
        )
    return Located(path, name)


def _demo() -> Path:
    path = Path(str(files("past_core") / "assets" / "demo.safetensors"))
    if not path.is_file():
        raise CheckpointNotFoundError(
            f"{path}: this installation holds no demo encoder; train one with "
            "`lightning fit -c recipes/pretrain.yaml` and give its checkpoint"
        )
    return path
