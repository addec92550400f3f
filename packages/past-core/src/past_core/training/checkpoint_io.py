"""Checkpoints of training on disk: each whole or not there, and read without executing anything."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from torch.serialization import MAP_LOCATION

from past_core.atomic import discard, replacing
from past_core.errors import PastError


class CheckpointWriteError(PastError, OSError):
    """A checkpoint could not be written; the one before it is untouched."""


class CheckpointReadError(PastError, ValueError):
    """A checkpoint that training cannot go on from: damaged, or it holds code."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file, waits for the disk, then renames: a reader never meets half a checkpoint.

    A process killed in the middle of writing, a full disk or a power cut leave the checkpoint that was there.
    The default of `lightning` in this package; elsewhere, `Trainer(plugins=[AtomicCheckpointIO()])`.
    Other than Lightning's own writer it needs no second copy in memory. URLs are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves a checkpoint.

        Args:
            checkpoint: what the trainer collected.
            path: where to; what is there is replaced.
            storage_options: not supported, as in Lightning's own.

        Raises:
            CheckpointWriteError: the disk is full or the folder cannot be written.
        """
        if storage_options is not None or not _is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        try:
            with replacing(path) as temporary:
                _write(checkpoint, temporary)
            _sync_folder(path.parent)
            for leftover in path.parent.glob(f".{path.stem}.*.part{path.suffix}"):
                discard(leftover)  # of a process killed while it wrote
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise CheckpointWriteError(
                f"the checkpoint {path} could not be written ({_reason(error)}); what was there is untouched"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: MAP_LOCATION | Callable = "cpu",
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Loads a checkpoint; tensors and plain values only, unless `weights_only` is False.

        Raises:
            FileNotFoundError: nothing is there.
            CheckpointReadError: truncated, damaged, or it holds code.
        """
        weights_only = weights_only is not False
        try:
            # torch.load takes any map_location; Lightning declares functions alone.
            where: Any = map_location
            return super().load_checkpoint(path, map_location=where, weights_only=weights_only)
        except FileNotFoundError:
            raise
        except Exception as error:  # torch raises whatever the damaged part makes it raise
            raise CheckpointReadError(
                f"{path}: truncated, damaged, or it holds code, which is never executed ({_reason(error)})"
            ) from error


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def _is_local(path: str | Path) -> bool:
    protocol = get_filesystem(path).protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot, and need not
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    if isinstance(error, PastError):
        return str(error)
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
