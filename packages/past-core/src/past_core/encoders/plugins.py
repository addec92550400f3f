"""Encoders that other installed packages declare."""

import logging
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from past_core.encoders.entry import PublicEncoder

logger = logging.getLogger(__name__)

ENCODERS_GROUP = "past.encoders"
"""Entry-point group of encoders: NAME = "package.module:entry", where the entry is a `PublicEncoder`."""


def declared_encoders(known: Mapping[str, PublicEncoder]) -> dict[str, PublicEncoder]:
    """The encoders of installed packages, by name.

    One that cannot be loaded, is no `PublicEncoder`, or takes a name that is already known is left out with a
    warning: a broken package must not keep the other encoders from working.

    Args:
        known: encoders whose names are taken.
    """
    found: dict[str, PublicEncoder] = {}
    for point in sorted(entry_points(group=ENCODERS_GROUP), key=lambda point: point.name):
        problem = _problem(point, {*known, *found})
        if problem is None:
            try:
                entry = point.load()
            except Exception as error:  # noqa: BLE001  (whatever another package's import raises)
                problem = f"cannot be loaded: {type(error).__name__}: {error}"
            else:
                if isinstance(entry, PublicEncoder):
                    found[point.name] = entry
                    continue
                problem = f"is a {type(entry).__name__}; expected a past_core.encoders.PublicEncoder"
        logger.warning("encoder %s of %s %s; it is left out", point.name, point.value, problem)
    return found


def _problem(point: EntryPoint, taken: set[str]) -> str | None:
    if point.name in taken:
        return "has a name that is taken; rename it in its package"
    if point.name == "demo" or ":" in point.name or "/" in point.name:
        return "has a name that means something else; expected one word that is not demo"
    return None
