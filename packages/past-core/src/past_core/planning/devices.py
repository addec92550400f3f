"""Known accelerators: what they can do at most, and how much memory they have."""

import difflib
import re
from dataclasses import dataclass, field

from past_core.errors import PastError


class DeviceError(PastError, ValueError):
    """An accelerator, or a precision on it, that is not known."""


@dataclass(frozen=True)
class Accelerator:
    """One device as its vendor's data sheet gives it.

    Args:
        name: how `past plan --device` calls it.
        memory_gib: its memory in GiB, as far as the driver leaves it to programs.
        peak: dense (not 2:4 sparse) FLOP/s of the matrix units by kind of arithmetic: `bf16`, `fp16` (both
            with float32 accumulation), `tf32` and `fp32`.
        pattern: regular expression that finds it in the device's own name.
        utilisation: share of the peak that a similar training reached on it, where that is published.
        source: where `utilisation` is from.
    """

    name: str
    memory_gib: float
    peak: dict[str, float]
    pattern: str
    utilisation: float = field(default=0.30, kw_only=True)
    source: str = field(default="a cautious guess", kw_only=True)


def _peak(
    *, bf16: float | None, fp16: float | None = None, tf32: float | None, fp32: float
) -> dict[str, float]:
    rates = {"bf16": bf16, "fp16": fp16 if fp16 is not None else bf16, "tf32": tf32, "fp32": fp32}
    return {kind: 1e12 * value for kind, value in rates.items() if value is not None}


_CLIP = "NeMo CLIP ViT-g/14 on 8 devices, published samples/s times its FLOP"

# The order matters: the first pattern that fits a device's own name decides.
ACCELERATORS: dict[str, Accelerator] = {
    each.name: each
    for each in (
        Accelerator(
            "a100-40",
            39.4,
            _peak(bf16=312, tf32=156, fp32=19.5),
            r"A100.*40GB",
            utilisation=0.39,
            source=_CLIP,
        ),
        Accelerator(
            "a100", 79.2, _peak(bf16=312, tf32=156, fp32=19.5), r"A100", utilisation=0.39, source=_CLIP
        ),
        Accelerator("h100-pcie", 79.1, _peak(bf16=756, tf32=378, fp32=51.2), r"H100 PCIe"),
        Accelerator(
            "h100", 79.1, _peak(bf16=989.4, tf32=494.7, fp32=66.9), r"H100", utilisation=0.21, source=_CLIP
        ),
        Accelerator(
            "h200", 139.8, _peak(bf16=989.4, tf32=494.7, fp32=66.9), r"H200", utilisation=0.21, source=_CLIP
        ),
        Accelerator("b200", 178.0, _peak(bf16=2250, tf32=1125, fp32=75), r"B200"),
        Accelerator("l40s", 44.4, _peak(bf16=362, tf32=183, fp32=91.6), r"L40S"),
        Accelerator("l40", 44.4, _peak(bf16=181, tf32=90.5, fp32=90.5), r"L40"),
        Accelerator("l4", 22.0, _peak(bf16=121, tf32=60, fp32=30.3), r"L4\b"),
        Accelerator("a40", 44.4, _peak(bf16=149.7, tf32=74.8, fp32=37.4), r"A40\b"),
        Accelerator("a6000", 47.4, _peak(bf16=154.8, tf32=77.4, fp32=38.7), r"RTX A6000"),
        Accelerator("a10", 22.0, _peak(bf16=125, tf32=62.5, fp32=31.2), r"A10\b"),
        Accelerator("v100-16", 15.8, _peak(bf16=None, fp16=125, tf32=None, fp32=15.7), r"V100.*16GB"),
        Accelerator("v100", 31.7, _peak(bf16=None, fp16=125, tf32=None, fp32=15.7), r"V100"),
        Accelerator("t4", 14.6, _peak(bf16=None, fp16=65, tf32=None, fp32=8.1), r"T4\b"),
        Accelerator("rtx3090", 23.7, _peak(bf16=71, tf32=35.6, fp32=35.6), r"RTX 3090\b(?! Ti)"),
        Accelerator("rtx4090", 23.6, _peak(bf16=165.2, tf32=82.6, fp32=82.6), r"RTX 4090\b(?! D)"),
        Accelerator(
            "mi250x", 64.0, _peak(bf16=191.5, tf32=None, fp32=47.9), r"MI250X"
        ),  # one of its two dies
        Accelerator("mi300x", 191.9, _peak(bf16=1307.4, tf32=653.7, fp32=163.4), r"MI300X"),
    )
}

PRECISIONS = {
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "bf16": "bf16",
    "16-mixed": "fp16",
    "16-true": "fp16",
    "16": "fp16",
    "32-true": "fp32",
    "32": "fp32",
}
"""What the trainer's precisions multiply matrices in."""


def find_accelerator(name: str) -> Accelerator:
    """The accelerator that the user calls `name`.

    Raises:
        DeviceError: it is not known; the message lists those that are.
    """
    if found := ACCELERATORS.get(name.lower()):
        return found
    near = difflib.get_close_matches(name.lower(), ACCELERATORS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DeviceError(
        f"device {name!r} is not known; {hint}known are: {', '.join(sorted(ACCELERATORS))}, cpu"
    )


def recognise(device_name: str) -> Accelerator | None:
    """The accelerator whose driver calls itself `device_name` ("NVIDIA A100-SXM4-80GB"), if it is known."""
    return next((each for each in ACCELERATORS.values() if re.search(each.pattern, device_name)), None)


def arithmetic(precision: str, *, tf32: bool = False) -> str | None:
    """Kind of arithmetic (`bf16`, `fp16`, `tf32`, `fp32`) of a trainer's precision; None if it has no peak.

    Args:
        precision: as `trainer.precision`, e.g. "bf16-mixed".
        tf32: whether float32 matrices are multiplied in TF32 (`torch.set_float32_matmul_precision`).
    """
    kind = PRECISIONS.get(str(precision))
    return "tf32" if kind == "fp32" and tf32 else kind


def peak_flops(accelerator: Accelerator, precision: str, *, tf32: bool = False) -> float | None:
    """Peak FLOP/s of an accelerator at a trainer's precision; None where it has none (bf16 on a V100)."""
    kind = arithmetic(precision, tf32=tf32)
    if kind == "tf32" and kind not in accelerator.peak:
        kind = "fp32"
    return accelerator.peak.get(kind) if kind else None
