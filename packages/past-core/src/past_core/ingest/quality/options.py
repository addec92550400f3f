"""Which cells count as confidently segmented: the tests, their thresholds, and how they are written."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from past_core.errors import PastError

PRESETS = ("minimal", "xenium", "none")
OFF, ON = ("off", "none", "no", "false"), ("on", "yes", "true")


class QualityOptionError(PastError, ValueError):
    """A test or threshold of quality control that does not exist or makes no sense."""


def _option(default: Any, low: float, high: float, text: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "help": text})


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """Thresholds of quality control; the defaults are `minimal`, where every further test is off.

    Two tests are never off, for neither training nor evaluation can use such cells: `no_genes` (no
    transcript of any gene) and `outside_image`.

    Attributes:
        min_counts: least transcripts of genes in a cell; 0 turns the test off.
        min_genes: least genes with a transcript; 0 turns it off. Never more than a fiftieth of the panel is
            asked for, so that small custom panels are not emptied.
        max_control_fraction: largest share of negative controls (probes and codewords) in the transcripts
            of genes and negative controls; None turns it off. Other features that are no genes, such as
            deprecated and unassigned codewords, do not count: in a real 5K slide the deprecated ones alone
            are 8 % of all.
        min_area: least area of a cell in µm²; None: off.
        max_area: largest area of a cell in µm²; None: off.
        nucleus: whether a cell needs a nucleus.
        min_nucleus_ratio: least area of the nucleus over that of its cell; None: off.
        max_nucleus_ratio: largest; above 1 the nucleus is larger than its cell. None: off.
        tissue: whether a cell must lie on tissue, told from glass by the H&E's colour at 8 µm per pixel.
        tissue_margin: µm that a cell's centre may lie beside the tissue, for the mask's edge is coarse.
        border: least distance in µm from a cell's centre to the edge of the image: half a field, so that no
            patch runs over the edge. None: off.
        min_density: least transcripts per µm² of the cell; None: off.
        max_density: largest; None: off.
        doublet: whether cells are scored with Scrublet (Wolock et al. 2019, as scanpy has it).
        max_doublet_score: largest score in [0, 1]; None lets Scrublet choose.
        focus: whether the H&E must be in focus around a cell.
        focus_z: robust standard deviations below the slide's sharp cells at which a cell is out of focus.
        focus_floor: sharpness (see `focus_scores`) below which a cell is out of focus whatever the slide is.
        focus_clear: sharpness above which it is in focus whatever the slide is.
        haematoxylin: whether there must be more haematoxylin in a nucleus than around it.
        haematoxylin_level: share of nuclei, displaced at random, that a nucleus' contrast must exceed.
        seed: of what is drawn at random (displacements, Scrublet).
    """

    min_counts: int = _option(0, 0, 1e6, "transcripts")
    min_genes: int = _option(0, 0, 1e6, "genes")
    max_control_fraction: float | None = _option(None, 0, 1, "share")
    min_area: float | None = _option(None, 0, 1e6, "µm²")
    max_area: float | None = _option(None, 0, 1e6, "µm²")
    nucleus: bool = _option(False, 0, 1, "on or off")
    min_nucleus_ratio: float | None = _option(None, 0, 1, "share")
    max_nucleus_ratio: float | None = _option(None, 0, 10, "share")
    tissue: bool = _option(False, 0, 1, "on or off")
    tissue_margin: float = _option(8.0, 0, 1000, "µm")
    border: float | None = _option(None, 0, 10_000, "µm")
    min_density: float | None = _option(None, 0, 1e6, "transcripts per µm²")
    max_density: float | None = _option(None, 0, 1e6, "transcripts per µm²")
    doublet: bool = _option(False, 0, 1, "on or off")
    max_doublet_score: float | None = _option(None, 0, 1, "score")
    focus: bool = _option(False, 0, 1, "on or off")
    focus_z: float = _option(3.0, 0, 100, "standard deviations")
    focus_floor: float = _option(0.006, 0, 1, "sharpness")
    focus_clear: float = _option(0.012, 0, 1, "sharpness")
    haematoxylin: bool = _option(False, 0, 1, "on or off")
    haematoxylin_level: float = _option(0.9, 0.5, 1, "share")
    seed: int = _option(0, 0, 2**31 - 1, "number")

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            QualityOptionError: A value out of its range, or a least value above the largest.
        """
        for item in dataclasses.fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise QualityOptionError(
                    f"{item.name} is {value}; expected {low:g} to {high:g} ({item.metadata['help']})"
                )
        for name in ("area", "nucleus_ratio", "density"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise QualityOptionError(
                    f"min_{name} is {low:g}, above max_{name}, which is {high:g}: no cell can pass"
                )

    @classmethod
    def minimal(cls) -> "QualityOptions":
        """Only the tests that are never off."""
        return cls()

    @classmethod
    def xenium(cls) -> "QualityOptions":
        """Confidently segmented cells of a Xenium slide; the default of `past ingest BUNDLE`.

        Absolute bounds, not quantiles, so that no slide loses cells by construction:

        * 10 transcripts: the floor of squidpy's Xenium tutorial (`scanpy.pp.filter_cells(min_counts=10)`);
          CosMx' own quality control takes 20. 5 genes: half of that, for a real cell of 10 transcripts has
          more than a few genes.
        * 10 % negative controls, the share in CosMx' own quality control: at 10 transcripts one stray
          control does not fail a cell (1/11).
        * 10 to 1,500 µm²: 10 µm² is a disc of 3.6 µm, smaller than any nucleus that is cut through its
          middle; cells of the 1.x pipelines are nuclei expanded by up to 15 µm, which stay below 1,500.
        * A nucleus, of at least 5 % of the cell and no larger than it. The transcripts of a cell without one
          were given to it by a membrane stain alone, and there is nothing to see in the H&E's middle.
        * On tissue, and half a field of 56 µm from the edge.

        Of 10,000 cells each of two real slides of 5,000 genes (ovary, prostate) the tests that need no image
        flag 4.2 % and 8.9 %.
        """
        return cls(
            min_counts=10,
            min_genes=5,
            max_control_fraction=0.1,
            min_area=10.0,
            max_area=1500.0,
            nucleus=True,
            min_nucleus_ratio=0.05,
            max_nucleus_ratio=1.0,
            tissue=True,
            border=28.0,
        )

    @classmethod
    def preset(cls, name: str) -> "QualityOptions":
        """`minimal`, `xenium`, or `none`, which is `minimal`: two tests are never off."""
        return cls.xenium() if name == "xenium" else cls.minimal()


def parse_quality(items: Iterable[str], *, base: QualityOptions | None = None) -> QualityOptions:
    """Options from words as they are given to `--qc`: a preset, then changes to it as KEY=VALUE.

    Args:
        items: such as `["xenium", "min_counts=20", "focus=on", "border=off"]`.
        base: what the changes are made to, where no preset is given; `xenium` by default.

    Raises:
        QualityOptionError: An unknown preset or key (with the nearest known ones), a value that does not fit
            its key, a key given twice, or two presets.
    """
    fields = {item.name: item for item in dataclasses.fields(QualityOptions)}
    kinds = typing.get_type_hints(QualityOptions)
    preset, changes = None, {}
    for item in items:
        key, equals, text = (part.strip() for part in item.partition("="))
        key = key.replace("-", "_").lower()
        if not equals:
            if key not in PRESETS:
                known = [*PRESETS, *(f"{name}=..." for name in fields)]
                raise QualityOptionError(
                    f"--qc {item!r} is neither a preset ({', '.join(PRESETS)}) nor KEY=VALUE"
                    + _near(key, [*PRESETS, *fields], known)
                )
            if preset is not None:
                raise QualityOptionError(f"--qc names two presets, {preset} and {key}; give one")
            preset = key
            continue
        if key not in fields:
            raise QualityOptionError(f"--qc has no key {key!r}" + _near(key, list(fields), list(fields)))
        if key in changes:
            raise QualityOptionError(f"--qc gives {key} twice")
        changes[key] = _value(key, text, kinds[key], fields[key].metadata["help"])
    start = QualityOptions.preset(preset) if preset else (base or QualityOptions.xenium())
    return dataclasses.replace(start, **changes)


def _near(word: str, candidates: list[str], known: list[str]) -> str:
    near = difflib.get_close_matches(word, candidates, n=3)
    return (f"; did you mean {' or '.join(near)}?" if near else "") + f" Known: {', '.join(known)}"


def _value(key: str, text: str, kind: Any, unit: str) -> Any:
    word, kinds = text.lower(), typing.get_args(kind) or (kind,)
    if kind is bool:
        if word in ON + OFF:
            return word in ON
        raise QualityOptionError(f"--qc {key}={text!r}; expected on or off")
    if word in OFF and type(None) in kinds:
        return None
    if word in OFF and key.startswith("min_"):
        return 0
    try:
        return int(text) if int in kinds else float(text)
    except ValueError:
        also = ", or off" if type(None) in kinds or key.startswith("min_") else ""
        whole = "a whole number" if int in kinds else "a number"
        raise QualityOptionError(f"--qc {key}={text!r}; expected {whole} ({unit}){also}") from None
