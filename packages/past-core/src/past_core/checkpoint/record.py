"""What a checkpoint records of its training: on which data, how, and how good it was."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import Any, Protocol


class Slide(Protocol):
    """What is recorded of a slide store."""

    name: str
    patient: str
    manifest: Mapping[str, Any]


class Data(Protocol):
    """What is recorded of a DataModule."""

    train_stores: list[Slide]
    val_stores: list[Slide]

    def cells_per_slide(self) -> tuple[list[int], list[int]]:
        """Cells used of every training and of every validation slide."""


def training_record(
    data: Data,
    metrics: Mapping[str, Any],
    *,
    step: int,
    epoch: int,
    validated_at: int | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The record that a checkpoint keeps; plain values only, and no path of the machine.

    Args:
        data: slide stores of training and validation, and how many of their cells are used.
        metrics: figures at this moment, by name (Lightning's `callback_metrics`); those that are not
            finite numbers are left out.
        step: optimiser steps done.
        epoch: passes over the data that are complete or under way, from 0.
        validated_at: the step whose weights the `val` figures are of; None where there was no validation
            yet, and then no `val` figure is kept.
        settings: of model, data and trainer, seeds included.

    Returns:
        `train` and `validation` (a `slide_record` each), `slides` (the training slides' names), `step`,
        `epoch`, `validated_at`, `metrics`, and `settings`.
    """
    train_cells, val_cells = data.cells_per_slide()
    return {
        "slides": [store.name for store in data.train_stores],
        "train": [slide_record(*pair) for pair in zip(data.train_stores, train_cells, strict=True)],
        "validation": [slide_record(*pair) for pair in zip(data.val_stores, val_cells, strict=True)],
        "step": int(step),
        "epoch": int(epoch),
        "validated_at": None if validated_at is None else int(validated_at),
        "metrics": {
            name: float(value)
            for name, value in metrics.items()
            if math.isfinite(float(value)) and (validated_at is not None or not name.startswith("val"))
        },
        "settings": {key: plain(value) for key, value in settings.items()},
    }


def slide_record(store: Slide, cells: int) -> dict[str, Any]:
    """A slide by name, content and origin: enough to tell whether another slide is the same one.

    Args:
        store: a slide store.
        cells: how many of its cells were used.
    """
    manifest = store.manifest
    return {
        "name": store.name,
        "patient": store.patient,
        **{key: manifest.get(key) for key in ("cancer_type", "assay", "organism", "mpp", "software")},
        "cells": int(cells),
        "manifest": manifest_hash(manifest),
        "sources": dict(manifest.get("sources") or {}),
    }


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """Sha256 (hex) of a store's manifest, the same wherever the store lies and however it was formatted."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Numbers, texts, lists and dictionaries from settings; of a path only the file's name."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, PurePath) or (isinstance(value, str) and ("/" in value or "\\" in value)):
        return PurePath(str(value).replace("\\", "/")).name
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
