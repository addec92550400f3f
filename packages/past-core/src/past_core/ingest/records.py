"""How the stores of a sheet were made, so that a rerun knows which are complete without hashing gigabytes.

Beside the stores lies `.ingest/SLIDE.json`. It holds the settings and the sources' sizes and times, before
the work as `started`, after it as `done`; a store that appeared between the two is that work's.
"""

import hashlib
import json
import logging
import os
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.ingest.hashing import sha256
from past_core.ingest.keypoints import with_registration
from past_core.ingest.quality import QualityOptions
from past_core.ingest.run import IngestRequest, quality_of, read_slide
from past_core.ingest.store import SlideStore, StoreError
from past_core.ingest.xenium_alignment import alignment_beside

logger = logging.getLogger(__name__)

FOLDER = ".ingest"
NOT_SETTINGS = {"output", "overwrite", "quality_report"}


class MadeOtherwiseError(PastError, FileExistsError):
    """A store is there that was made from other files or with other settings."""


def is_complete(request: IngestRequest) -> bool:
    """Whether a request's store is there, whole, and made as the request says.

    Files of the same size and time are taken for the same; where those differ, or nothing is on record, the
    slide is read and its sources are hashed and compared with the store's manifest.

    Raises:
        MadeOtherwiseError: It is there and was made otherwise, or it is damaged or no slide store.
    """
    output = request.output
    if not (output.exists() or output.is_symlink()):
        return False
    try:
        store = SlideStore(output)
    except StoreError as error:
        raise MadeOtherwiseError(f"{error} (or pass --overwrite)") from error
    wanted, record = _wanted(request), _read(request)
    stamp, done, started = _stamp(output), record.get("done"), record.get("started")
    known: dict[str, Any] | None
    if isinstance(started, dict) and started.get("before") != stamp:
        # Killed between the store's completion and the record's.
        known = started
    else:
        known = done if isinstance(done, dict) and done.get("stamp") == stamp else None
    if known is not None:
        _refuse(output, known.get("settings") or {}, wanted["settings"])
        if known.get("sources") == wanted["sources"]:
            if known is started:
                finish(request)
            return True
        logger.info("%s: sources have another size or time; they are hashed", output)
    _compare(request, store)
    _write(request, {"done": {**wanted, "stamp": stamp}})
    return True


def begin(request: IngestRequest) -> None:
    """Puts on record that a store is being made.

    Raises:
        MadeOtherwiseError: The record cannot be written.
    """
    before = _stamp(request.output)
    _write(request, {**_read(request), "started": {**_wanted(request), "before": before}})


def finish(request: IngestRequest) -> None:
    """Puts on record that the store that was begun is complete."""
    started = _read(request).get("started") or _wanted(request)
    kept = {name: started[name] for name in ("settings", "sources")}
    _write(request, {"done": {**kept, "stamp": _stamp(request.output)}})


def _wanted(request: IngestRequest) -> dict[str, Any]:
    """What a record says of a request, in JSON's types.

    Settings at their defaults are left out, so that a later version's new ones differ from nothing. Files
    count by their role and state, not by where they lie.
    """
    settings: dict[str, Any] = {}
    for item in fields(request):
        value = getattr(request, item.name)
        if item.name in NOT_SETTINGS or (item.default is not MISSING and value == item.default):
            continue
        settings |= {f"option {name}": v for name, v in value.items()} if item.name == "options" else {}
        settings |= {item.name: value} if item.name != "options" else {}
    files = {name: value for name, value in settings.items() if _is_files(value)}
    others = {name: value for name, value in settings.items() if name not in files}
    files |= _beside(request)
    sources = {name: [_state(path) for path in _paths(value)] for name, value in sorted(files.items())}
    return json.loads(json.dumps({"settings": others, "sources": sources}, default=_spelled, sort_keys=True))


def _spelled(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else repr(value)


def _is_files(value: Any) -> bool:
    return isinstance(value, Path) or (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Path) for item in value)
    )


def _paths(value: Path | list[Path] | tuple[Path, ...]) -> list[Path]:
    return [value] if isinstance(value, Path) else list(value)


def _beside(request: IngestRequest) -> dict[str, Path]:
    """Files that are read because they lie beside those that are named."""
    he, path = request.options.get("he"), request.path
    found: dict[str, Path | None] = {}
    if request.source == "BUNDLE" and isinstance(he, Path):
        found["beside the H&E"] = alignment_beside(he)
    if request.source == "--hest":
        found["beside the cells"] = path.with_suffix(".json")
        found["metadata of the cells"] = path.absolute().parent.parent / "metadata" / f"{path.stem}.json"
    return {name: file for name, file in found.items() if file is not None and file.exists()}


def _state(path: Path) -> list[int | str]:
    """Size and time of a file; of a folder, the number of its files and a hash over theirs."""
    if path.is_file():
        state = path.stat()
        return [state.st_size, state.st_mtime_ns]
    total, count = hashlib.sha256(), 0
    for root, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(root, name)
            if file.is_file():
                state, count = file.stat(), count + 1
                key = f"{file.relative_to(path).as_posix()}\0{state.st_size}\0{state.st_mtime_ns}\n"
                total.update(key.encode(errors="surrogateescape"))
    return [count, total.hexdigest()]


def _stamp(store: Path) -> list[int] | None:
    """Tells a store from its predecessor and successor."""
    try:
        state = (store / "zarr.json").stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _refuse(output: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    for name in sorted(set(was) | set(now)):
        if was.get(name) != now.get(name):
            label = name.removeprefix("option ")
            raise MadeOtherwiseError(
                f"{output} exists, made with another {label} ({_say(was.get(name))}, now "
                f"{_say(now.get(name))}); pass --overwrite to make it again, or choose another folder"
            )


def _say(value: Any) -> str:
    return "the default" if value is None else str(value)


def _compare(request: IngestRequest, store: SlideStore) -> None:
    """Compares a store with what reading the request's sources gives now.

    Raises:
        MadeOtherwiseError: They differ.
        PastError: The sources cannot be read.
    """
    data, manifest = read_slide(with_registration(request, make=False)), store.manifest
    now = {
        "name": data.name,
        "patient": data.patient,
        "cancer_type": data.cancer_type,
        "assay": data.assay,
        "organism": data.organism,
        "k": request.k,
    }
    was = {name: manifest.get(name) for name in now} | {"k": (manifest.get("neighbors") or {}).get("k")}
    _refuse(request.output, was, now)
    tests = asdict(quality_of(request) or QualityOptions.minimal())
    _refuse(
        request.output, (manifest.get("qc") or {}).get("options") or asdict(QualityOptions.minimal()), tests
    )
    if abs(store.mpp / data.mpp - 1) > 1e-9:
        _refuse(request.output, {"mpp": store.mpp}, {"mpp": data.mpp})
    hashes = manifest.get("sources") or {}
    for label in sorted(set(hashes) | set(data.sources)):
        source = data.sources.get(label)
        if source is None or hashes.get(label) != sha256(Path(source)):
            raise MadeOtherwiseError(
                f"{request.output} exists, made from another {label} ({source or 'none now'} is not the file "
                "in its manifest); pass --overwrite to make it again, or choose another folder"
            )


def _record(request: IngestRequest) -> Path:
    return request.output.parent / FOLDER / f"{request.output.stem}.json"


def _read(request: IngestRequest) -> dict[str, Any]:
    try:
        found = json.loads(_record(request).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(request: IngestRequest, record: dict[str, Any]) -> None:
    path = _record(request)
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise MadeOtherwiseError(f"{path} cannot be written ({error}); is the folder writable?") from error
