"""Speeds that plans are made with, each with its source: measured by the benchmarks, or assumed."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from past_core.errors import PastError
from past_core.planning.devices import Accelerator, arithmetic


class RatesError(PastError, ValueError):
    """A file that holds no measured rates."""


@dataclass(frozen=True)
class Rate:
    """A figure and where it is from."""

    value: float
    source: str
    measured: bool = False

    def __str__(self) -> str:
        return f"{'measured' if self.measured else 'assumed'}: {self.source}"


@dataclass(frozen=True)
class Rates:
    """What benchmarks measured.

    Args:
        supply: cells/s that one core makes ready; None where it was not measured.
        cores: cores of the machine that measured it.
        steps: measured training steps: `device` (the driver's name), `precision`, `flops_per_second` (of
            the hardware, recomputation counted), `model`.
    """

    supply: Rate | None = None
    cores: int | None = None
    steps: tuple[dict[str, Any], ...] = ()

    def step(self, device: Accelerator | None, precision: str) -> Rate | None:
        """FLOP/s of the fastest measured step on this device at this precision."""
        pattern = device.pattern if device is not None else r"^CPU"
        kind = arithmetic(precision)
        fitting = [
            step
            for step in self.steps
            if re.search(pattern, step["device"]) and arithmetic(step["precision"]) == kind
        ]
        if not fitting:
            return None
        best = max(fitting, key=lambda step: step["flops_per_second"])
        return Rate(
            best["flops_per_second"], f"{best['file']}, {best['model']} on {best['device']}", measured=True
        )


def read_rates(paths: Sequence[Path]) -> Rates:
    """Reads what `python -m benchmarks supply` and `python -m benchmarks step` wrote.

    The last file that has a figure decides.

    Raises:
        RatesError: a file is missing, is not JSON, or holds no rates.
    """
    supply, cores, steps = None, None, []
    for path in paths:
        try:
            content = json.loads(path.read_text())
            name, details = content["name"], content["details"]
            if name == "supply":
                cores = int(content["machine"]["cores"])
                supply = Rate(float(details["patches_per_second_per_core"]["PAST"]), str(path), measured=True)
            elif name == "step" or name.startswith("step-"):
                for step in details["steps"]:
                    kept = {key: str(step[key]) for key in ("device", "precision", "model")}
                    speed = float(step["flops_per_second"])
                    steps.append({**kept, "flops_per_second": speed, "file": str(path)})
            else:
                raise RatesError(f"{path} is of the benchmark {name!r}; expected one of `supply` or `step`")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, RatesError):
                raise
            raise RatesError(
                f"{path} holds no measured rates ({type(error).__name__}: {error}); expected a file that "
                "`python -m benchmarks supply` or `python -m benchmarks step` wrote"
            ) from error
    return Rates(supply, cores, tuple(steps))
