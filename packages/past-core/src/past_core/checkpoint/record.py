"""What a checkpoint records of its training: on which data, how, and how good it was."""

import hashlib
import inspect
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


def settings_of(**parts: Any) -> dict[str, Any]:
    """The arguments that objects were made with, as far as they keep them by name and they are plain values.

    Args:
        parts: the objects, by the prefix of their settings, as a recipe has them (`model=`, `data=`).

    Returns:
        Values by `PREFIX.NAME`.
    """
    return {
        f"{part}.{name}": getattr(made, name)
        for part, made in parts.items()
        for name in inspect.signature(type(made).__init__).parameters
        if name in vars(made) and _is_plain(vars(made)[name])
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str)) or _is_settings(value)


def _is_settings(value: Any) -> bool:
    """Whether a value is a small dataclass of settings, such as an augmentation's."""
    return is_dataclass(value) and all(map(_is_plain, vars(value).values()))


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


def read_record(info: Mapping[str, Any]) -> dict[str, Any]:
    """The training record of a checkpoint's `info`, of whatever age and origin, with every entry of its type.

    Args:
        info: `PastCheckpoint.info`.

    Returns:
        What `training_record` gives; empty, and None for numbers, where the checkpoint says nothing.
    """
    training = info.get("training")
    training = training if isinstance(training, Mapping) else {}
    metrics = training.get("metrics")
    settings = training.get("settings")
    names = training.get("slides")
    return {
        "slides": [str(name) for name in names] if isinstance(names, (list, tuple)) else [],
        **{use: _read_slides(training.get(use)) for use in ("train", "validation")},
        **{key: _whole(training.get(key)) for key in ("step", "epoch", "validated_at")},
        "imported": str(training.get("imported") or ""),
        "metrics": {
            str(name): float(value)
            for name, value in (metrics.items() if isinstance(metrics, Mapping) else ())
            if isinstance(value, (int, float)) and math.isfinite(value)
        },
        "settings": dict(settings) if isinstance(settings, Mapping) else {},
    }


def _read_slides(slides: Any) -> list[dict[str, Any]]:
    found = [slide for slide in slides if isinstance(slide, Mapping)] if isinstance(slides, list) else []
    return [
        {
            **slide,
            "cells": _whole(slide.get("cells")) or 0,
            "manifest": str(slide.get("manifest") or ""),
            "sources": slide["sources"] if isinstance(slide.get("sources"), Mapping) else {},
        }
        for slide in found
    ]


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
