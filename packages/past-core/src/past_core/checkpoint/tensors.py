"""A safetensors file, opened by its header: names and shapes before a single weight is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from past_core.checkpoint.errors import CheckpointError

MAX_HEADER = 64 * 2**20
"""Largest header in bytes; 20,310 gene ids take half a megabyte."""


@dataclass(frozen=True)
class TensorFile:
    """An opened safetensors file.

    Attributes:
        path: the file.
        shapes: of its tensors, by name; their bytes are all within the file.
        metadata: its text entries.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def read(self, *names: str) -> dict[str, Tensor]:
        """Reads tensors.

        Raises:
            CheckpointError: the file was damaged since it was opened.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
            raise _damaged(self.path, error) from error

    def metadata_json(self, key: str) -> Any:
        """A text entry, parsed; None where it is absent.

        Raises:
            CheckpointError: it is not JSON.
        """
        try:
            return json.loads(self.metadata[key]) if key in self.metadata else None
        except (ValueError, TypeError, RecursionError) as error:
            raise _damaged(self.path, error) from error


def open_safetensors(path: Path) -> TensorFile:
    """Opens a safetensors file; the library checks that the header covers the file exactly.

    Raises:
        CheckpointError: no such file, another format, truncated, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise CheckpointError(f"{path}: not a safetensors file, or truncated ({size:,} bytes)")
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is incomplete: {path.name} is not in it") from error
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError) as error:
        raise _damaged(path, error) from error
    return TensorFile(path, shapes, metadata)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: damaged or truncated safetensors file: {error}")
