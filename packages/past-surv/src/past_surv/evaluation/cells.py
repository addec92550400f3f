"""One cell of a matrix: a system with an encoder, on one fold of a cohort, with one seed; and its file.

The file `cells/COHORT/ENCODER/SYSTEM/foldF-seedS.npz` holds case ids, risks, survival curves where there are,
and a key of everything that decides them. It exists whole or not at all, so that a run that was killed goes
on where it was, and a cell whose inputs, settings or software changed is made again.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from past_core.atomic import replacing
from past_core.errors import PastError
from past_surv.evaluation.sources import CohortSource, digest_of, load

logger = logging.getLogger(__name__)

NO_ENCODER = "none"
"""Encoder of systems that read no slide."""
ROOMS = ("data", "losses.py", "models", "tasks", "systems")
"""Rooms of this package that decide a prediction."""
SOFTWARE = ("numpy", "scikit-learn", "scikit-survival", "torch")


class CellError(PastError, ValueError):
    """A system that gave no usable prediction."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What decides one prediction.

    Attributes:
        cohort: the cohort's files.
        encoder: name of the encoder of the slides; `NO_ENCODER` where none is read.
        system: name in the registry.
        fold: number of the fold, in order.
        seed: of whatever is drawn at random.
        inputs: what the system is made of: paths by name.
        digests: of the inputs' contents.
        options: of the system.
    """

    cohort: CohortSource
    encoder: str
    system: str
    fold: int
    seed: int
    inputs: Mapping[str, Path] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        encoder = "" if self.encoder == NO_ENCODER else f" on {self.encoder}"
        return f"{self.cohort.name}: {self.system}{encoder}, fold {self.fold}, seed {self.seed}"

    def path(self, folder: Path) -> Path:
        """Its file in a folder of results."""
        return (
            folder
            / "cells"
            / self.cohort.name
            / self.encoder
            / self.system
            / f"fold{self.fold}-seed{self.seed}.npz"
        )

    def key(self) -> str:
        """Of the contents of all inputs, the settings, and the software; not of where files lie."""
        cohort = asdict(self.cohort)
        if self.cohort.splits_digest is not None:
            cohort = {name: cohort[name] for name in ("name", "digest", "splits_digest")}
        cohort.pop("paths", None)
        settings = [self.encoder, self.system, self.fold, self.seed, dict(self.digests), dict(self.options)]
        return digest_of(cohort, *settings, software(), code_digest())


@dataclass(frozen=True, eq=False, kw_only=True)
class CellResult:
    """A prediction, as it is kept.

    Attributes:
        cell: what was predicted.
        cases: `(N,)` ids of the scored patients.
        risk: `(N,)`; NaN for those the system can say nothing of.
        survival: `(N, K)` share alive after each interval, or None.
        edges: `(K + 1,)` of the intervals, or None.
        info: what the system says of what it did.
        seconds: it took.
    """

    cell: Cell
    cases: np.ndarray
    risk: np.ndarray
    survival: np.ndarray | None
    edges: np.ndarray | None
    info: dict[str, Any]
    seconds: float


def compute(cell: Cell, folder: Path) -> None:
    """Trains, predicts, and writes the cell's file.

    Raises:
        CellError: risks that are not one a scored patient, infinite, or all missing.
        PastError: whatever the system or its inputs raise.
    """
    from past_surv.evaluation.building import build

    started = time.perf_counter()
    cohort, folds = load(cell.cohort)
    fold = folds[cell.fold]
    found = build(cell).predict(cohort, fold, seed=cell.seed)
    risk = np.asarray(found.risk, np.float64)
    if risk.shape != fold.test.shape:
        raise CellError(f"{cell}: risks {risk.shape} of {len(fold.test)} scored patients")
    if np.isinf(risk).any() or np.isnan(risk).all():
        what = "infinite" if np.isinf(risk).any() else "missing for every scored patient"
        raise CellError(
            f"{cell}: the risk is {what}; the training diverged, or no input of the fold is there"
        )
    arrays = {"cases": cohort.cases[fold.test].to_numpy(dtype=str), "risk": risk}
    if found.survival is not None:
        arrays |= {"survival": found.survival, "edges": found.edges}
    record = {"key": cell.key(), "info": found.info, "seconds": time.perf_counter() - started}
    with replacing(cell.path(folder)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, record=np.array(json.dumps(record, default=str)), **arrays)


def read(cell: Cell, folder: Path) -> CellResult | None:
    """The cell's result; None where there is none, or one of other inputs, settings or software."""
    path = cell.path(folder)
    try:
        # Of a damaged archive numpy leaves a file open that it opened itself.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            record = json.loads(str(file["record"]))
            arrays = {name: file[name] for name in file.files if name != "record"}
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  (whatever numpy, zipfile, zlib and json raise on damage)
        logger.warning("%s: not a readable result (%s); it is made again", path, error)
        return None
    if record.get("key") != cell.key():
        logger.info("%s: of other inputs, settings or software; it is made again", path)
        return None
    return CellResult(
        cell=cell,
        cases=arrays["cases"],
        risk=arrays["risk"],
        survival=arrays.get("survival"),
        edges=arrays.get("edges"),
        info=record["info"],
        seconds=record["seconds"],
    )


def software() -> dict[str, str]:
    """Versions that decide a prediction."""
    return {name: version(name) for name in ("past-surv", "past-core", *SOFTWARE)}


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Of this package's own code that decides a prediction, for those who change it without a version."""
    root = Path(__file__).parents[1]
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py") or [])]
    files += [root / room for room in ROOMS if room.endswith(".py")]
    return digest_of(*(f"{path.relative_to(root)} {path.read_text()}" for path in files))
