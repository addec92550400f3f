"""Peak memory of one program alone, and of one `past` command.

On Linux, getrusage also counts what the parent held when it started the program; VmHWM does not.
"""

import resource
import sys
from pathlib import Path


def peak_gib() -> float:
    """Peak resident memory of this program so far, in GiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20  # kibibytes


def _main() -> None:
    """`python -m benchmarks.memory FILE VERB ...`: runs `past VERB ...`, then writes its peak to FILE."""
    from past_core.cli import past_main

    file = Path(sys.argv[1])
    sys.argv = ["past", *sys.argv[2:]]
    try:
        past_main()
    finally:
        file.write_text(f"{peak_gib()}\n")


if __name__ == "__main__":
    _main()
