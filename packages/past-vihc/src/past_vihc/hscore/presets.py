"""Thresholds between negative, 1+, 2+ and 3+: the published ones by name, given ones, and fitted ones.

There is no default. In the drawn nuclei of DeepLIIF's bladder tile (Ki67) the H-score is 24 under `qupath`,
30 under `ihc4bc-ki67` and 66 under `ihc4bc-er`: a score without its thresholds says nothing.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from past_core.errors import PastError

FORMAT = "past-thresholds"
"""What a file of fitted thresholds calls itself."""
CLASSES = ("Negative", "1+", "2+", "3+")
"""Names of the four classes, as QuPath has them."""


class ThresholdError(PastError, ValueError):
    """Thresholds that are missing, out of order, or not known by that name."""


class ThresholdFileNotFoundError(PastError, FileNotFoundError):
    """There is no file of thresholds at that path."""


@dataclass(frozen=True)
class Thresholds:
    """Least mean DAB optical density of a nucleus (log10, as QuPath has it) for each positive class.

    Attributes:
        weak: of 1+.
        moderate: of 2+.
        strong: of 3+.
        name: of the preset, or where they come from.
        source: who published them.
        fitted: what `past calibrate` recorded with them; empty for others.

    Raises:
        ThresholdError: not ascending, below 0, or no numbers.
    """

    weak: float
    moderate: float
    strong: float
    name: str = field(default="given", kw_only=True)
    source: str = field(default="", kw_only=True)
    fitted: dict[str, Any] = field(default_factory=dict, kw_only=True, compare=False, hash=False)

    def __post_init__(self) -> None:
        values = self.levels
        if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
            raise ThresholdError(f"thresholds {values}; expected three finite numbers")
        if not 0 <= self.weak < self.moderate < self.strong:
            raise ThresholdError(
                f"thresholds weak {self.weak:g}, moderate {self.moderate:g}, strong {self.strong:g}; "
                "expected three ascending optical densities of at least 0, as in 0.2,0.4,0.6"
            )

    @property
    def levels(self) -> tuple[float, float, float]:
        """Weak, moderate, strong."""
        return (self.weak, self.moderate, self.strong)

    def scaled(self, factor: float) -> "Thresholds":
        """All three times a factor."""
        weak, moderate, strong = (factor * value for value in self.levels)
        return Thresholds(weak, moderate, strong, name=f"{self.name} x {factor:g}", source=self.source)


_IHC4BC = "IHC4BC, its label files' thresholds on the mean DAB of a nucleus (ihc4bc.github.io)"
PRESETS = {
    preset.name: preset
    for preset in (
        Thresholds(0.06, 0.26, 0.46, name="ihc4bc-er", source=_IHC4BC),
        Thresholds(0.06, 0.26, 0.46, name="ihc4bc-pr", source=_IHC4BC),
        Thresholds(0.12, 0.35, 0.55, name="ihc4bc-ki67", source=_IHC4BC),
        Thresholds(
            0.2,
            0.4,
            0.6,
            name="qupath",
            source="QuPath, its defaults of positive cell detection (nucleus mean)",
        ),
    )
}
"""Published thresholds by name."""


def thresholds_named(text: str | None) -> Thresholds:
    """Thresholds from what a user gives: a preset's name, three numbers, or a file of `past calibrate`.

    Args:
        text: `qupath`, `0.06,0.26,0.46` or `thresholds.json`.

    Raises:
        ThresholdError: nothing given, an unknown name, or three numbers that are none or out of order.
        ThresholdFileNotFoundError: the name of a `.json` file that is not there.
    """
    if text is None or not text.strip():
        raise ThresholdError(
            f"no thresholds: an H-score depends on them, so they must be named. {_choices()}"
        )
    text = text.strip()
    if text in PRESETS:
        return PRESETS[text]
    if text.lower().endswith(".json"):
        return read_thresholds(Path(text))
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise ThresholdError(f"no thresholds named {text!r}. {_choices()}") from None
    if len(numbers) != 3:
        raise ThresholdError(f"{len(numbers)} thresholds in {text!r}; expected three, as in 0.06,0.26,0.46")
    return Thresholds(*numbers)


def read_thresholds(path: Path) -> Thresholds:
    """Reads what `past calibrate` wrote.

    Raises:
        ThresholdFileNotFoundError: no such file.
        ThresholdError: another kind of file, or thresholds out of order.
    """
    if not path.is_file():
        raise ThresholdFileNotFoundError(f"no thresholds at {path}; past calibrate writes them")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ThresholdError(f"{path}: not a file of thresholds ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ThresholdError(f"{path}: not a file of past calibrate (its format is not {FORMAT!r})")
    values: list[Any] = [content.get(name) for name in ("weak", "moderate", "strong")]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        raise ThresholdError(f"{path}: weak, moderate and strong are {values}; expected three numbers")
    weak, moderate, strong = values
    try:
        return Thresholds(weak, moderate, strong, name="calibrated", source=str(path.name), fitted=content)
    except ThresholdError as error:
        raise ThresholdError(f"{path}: {error}") from None


def _choices() -> str:
    named = "; ".join(f"{name} = {', '.join(f'{v:g}' for v in p.levels)}" for name, p in PRESETS.items())
    return (
        f"Give a preset ({named}), three numbers, or a file of past calibrate. The choice matters: on one "
        "Ki67 tile the H-score is 24 under qupath, 30 under ihc4bc-ki67 and 66 under ihc4bc-er"
    )
