"""Names of assays and the context token that each goes under."""

import logging

from past_core.errors import PastError
from past_core.vocabulary import ASSAYS

logger = logging.getLogger(__name__)

NEAREST = {"merscope": "merfish", "visium hd": "10x 3' v3"}
"""Assays under another token. Visium HD has none of its own: the nearest chemistry stands for it."""


class AssayError(PastError, ValueError):
    """An assay has no token."""


def known_assays() -> tuple[str, ...]:
    """Every name that `assay_token` takes."""
    return (*ASSAYS, *NEAREST)


def assay_token(name: str) -> str:
    """Finds the context token of an assay; case, `_` and `-` do not matter.

    Raises:
        AssayError: If there is none.
    """
    names = {_plain(known): known for known in known_assays()}
    known = names.get(_plain(name))
    if known is None:
        raise AssayError(f"assay {name!r} is not known; expected one of {', '.join(known_assays())}")
    if known in NEAREST:
        logger.warning("assay %s goes under the token of %s", known, NEAREST[known])
    return NEAREST.get(known, known)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
