"""Files that torch wrote: tensors and plain values; code in them is refused and never executed."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from past_core.foreign.errors import ForeignError, reason


def load_tensors(path: Path, *, allowed: Sequence[type] = (), mapped: bool | None = None) -> Any:
    """What `torch.save` wrote, of tensors, numbers, texts, and containers of them.

    Args:
        path: a `.pt`, `.pth`, `.ckpt` or `.bin`.
        allowed: classes besides, whose instances are rebuilt from plain values.
        mapped: map the file, so that only what is looked at comes from the disk; by default where it can be.

    Raises:
        ForeignError: truncated, damaged, of another kind, or it holds code.
    """
    import torch

    try:
        # Files of torch before 1.6 are no archives, and cannot be mapped.
        mapped = zipfile.is_zipfile(path) if mapped is None else mapped
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the reader of pickles raises whatever the damage leads it to
        raise ForeignError(reason(error)) from error
