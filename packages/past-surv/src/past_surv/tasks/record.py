"""What a trained network was built for: kept in its checkpoints, and in the file that is exported of it."""

import hashlib
from typing import Any

import numpy as np

from past_core.errors import PastError
from past_surv.data.fold_data import FoldData


class SurvivalCheckpointError(PastError, ValueError):
    """Weights of another network, of other groups or patches, or of other training patients."""


def manifest(kind: str, options: dict[str, Any], data: FoldData) -> dict[str, Any]:
    """Everything that is needed to use a network on another patient; JSON holds it.

    Args:
        kind: `mcat`, `mil` or `snn`.
        options: of the network, beyond what the data say.
        data: the fold that it is trained on.
    """
    return {
        "kind": kind,
        "options": options,
        "cohort": data.cohort.name,
        "fold": data.fold.name,
        "unit": data.cohort.unit,
        "train_cases": _fingerprint(data.cohort.cases[np.sort(data.train_rows)].astype(str).tolist()),
        "train_patients": len(data.train_rows),
        "group_names": list(data.group_names),
        "group_sizes": list(data.group_sizes),
        "group_columns": [[str(name) for name in scaling.mean.index] for scaling in data.scalings],
        "vectors": data.vectors is not None,
        "scalings": [
            {
                "mean": scaling.mean.to_list(),
                "deviation": scaling.deviation.to_list(),
            }
            for scaling in data.scalings
        ],
        "edges": data.intervals.edges[1:-1].tolist(),
        **encoder_of(data),
        "patch_dim": data.patch_dim,
    }


def encoder_of(data: FoldData) -> dict[str, str | None]:
    """Name and fingerprint of the encoder of a fold's patches, where the bags say it."""
    bag = next((bag for bags in data.patient_bags for bag in bags), None)
    if bag is None:
        return {"encoder": None, "encoder_fingerprint": None}
    return {"encoder": bag.encoder, "encoder_fingerprint": bag.manifest.get("fingerprint")}


def require_same(found: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    """Compares a checkpoint's entry with what the present run would write.

    Raises:
        SurvivalCheckpointError: they differ; says in what.
    """
    if found is None:
        raise SurvivalCheckpointError("the checkpoint is none of past-surv's: it does not say what it is for")
    for key, what in (
        ("kind", "network"),
        ("options", "options of the network"),
        ("group_names", "groups of genes"),
        ("group_columns", "columns of the groups"),
        ("group_sizes", "sizes of the groups"),
        ("encoder", "encoder of the patches"),
        ("encoder_fingerprint", "weights of the encoder of the patches"),
        ("patch_dim", "width of the patches"),
        ("train_cases", "training patients"),
        ("edges", "intervals of time"),
    ):
        if found.get(key) != expected.get(key):
            pair = [_short(found.get(key)), _short(expected.get(key))]
            raise SurvivalCheckpointError(
                f"the checkpoint and this run differ in the {what}: {pair[0]} against {pair[1]}; it was "
                f"trained on fold {found.get('fold')} of {found.get('cohort')}. Give the data and settings "
                "of its training"
            )


def _fingerprint(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
