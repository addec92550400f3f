"""How many threads image work may take."""

import os


def usable_cores() -> int:
    """Cores that this process may run on, which a cluster's job can hold fewer of than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
