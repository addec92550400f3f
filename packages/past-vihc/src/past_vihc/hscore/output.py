"""The folder of a score: it exists whole, or not at all."""

import json
import math
from pathlib import Path
from typing import Any

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.slides import Slide
from past_vihc.hscore.geojson import write_geojson
from past_vihc.hscore.overlay import write_overlay
from past_vihc.hscore.result import SlideScore

FILES = ("nuclei.csv", "nuclei.geojson", "score.json", "regions.csv", "overlay.png")


class OutputError(PastError, FileExistsError):
    """Something else lies where the folder is to be written."""


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuses, before any work, a place that is taken.

    Raises:
        OutputError: a file, a folder of other things, or an earlier score that is not to be replaced.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; expected the name of a folder to write")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    if names - set(FILES):
        raise OutputError(
            f"{folder} holds other things ({', '.join(sorted(names - set(FILES))[:3])}); name another"
        )
    if not overwrite:
        raise OutputError(f"{folder} holds a score already; give --overwrite to replace it")


def write_score(folder: Path, slide: Slide, result: SlideScore, *, overwrite: bool = False) -> None:
    """Writes `nuclei.csv`, `nuclei.geojson`, `score.json`, `regions.csv` and `overlay.png`.

    Args:
        folder: takes the place of an earlier score only when `overwrite`.
        slide: the IHC, for the picture.
        result: its score.
        overwrite: replace an earlier score.

    Raises:
        OutputError: the place is taken.
    """
    check_folder(folder, overwrite=overwrite)
    with replacing(folder) as temporary:
        temporary.mkdir()
        result.nuclei.to_csv(temporary / "nuclei.csv", index=False, float_format="%.6g")
        write_geojson(temporary / "nuclei.geojson", result.nuclei, result.outlines)
        text = json.dumps(_plain(result.as_json()), indent=1, ensure_ascii=False, allow_nan=False)
        (temporary / "score.json").write_text(text + "\n", encoding="utf-8")
        if len(result.regions):
            result.regions.to_csv(temporary / "regions.csv", index=False, float_format="%.6g")
        write_overlay(temporary / "overlay.png", slide, result)


def _plain(value: Any) -> Any:
    """Numbers without bounds (an Otsu threshold of a slide of one colour) as null: JSON has no others."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
