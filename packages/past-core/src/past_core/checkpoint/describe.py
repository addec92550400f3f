"""What a checkpoint holds, in plain values."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from past_core.checkpoint.content import open_checkpoint, stored_vocabulary
from past_core.checkpoint.format import GENE_MEANS, OWN
from past_core.checkpoint.places import locate

PARTS = {"image encoder": "image_encoder.", "cell encoder": "cell_encoder."}


def describe_checkpoint(name_or_path: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """What a checkpoint holds, without building its networks: plain values for `past info`.

    Args:
        name_or_path: whatever `load_model` accepts.
        revision: of a hub repository.

    Raises:
        CheckpointError, CheckpointNotFoundError: see `load_checkpoint`.
        HubNotFoundError, HubAccessError, HubUnavailableError: see `load_model`.
    """
    located = locate(name_or_path, revision=revision)
    content = open_checkpoint(located.path)
    past, vocabulary = content.past, stored_vocabulary(content)
    means = past.get(GENE_MEANS)
    sizes = {key: math.prod(shape) for key, shape in content.shapes.items()}
    named = {"software", "training", "demo"} | OWN
    return {
        "kind": "checkpoint",
        "path": str(located.path),
        **({"chosen": located.note} if located.note else {}),
        "container": content.container,
        "format": past["format"],
        "software": past.get("software", "unknown"),
        "demo": located.demo or bool(past.get("demo", False)),
        **{key: value for key, value in past.items() if key not in named},
        "parameters": sum(sizes.values()),
        **{
            f"{part} parameters": sum(size for key, size in sizes.items() if key.startswith(prefix))
            for part, prefix in PARTS.items()
        },
        "model": past["model"],
        "vocabulary": {
            "genes": len(vocabulary),
            "fingerprint": vocabulary.fingerprint,
            "with mean": int(torch.isfinite(means).sum()) if isinstance(means, Tensor) else 0,
        },
        "training": past.get("training", {}),
    }
