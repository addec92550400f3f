"""The errors of every slide reader."""

from past_core.errors import PastError


class SlideError(PastError, ValueError):
    """A slide that cannot be read, or a request that it cannot serve."""


class SlideNotFoundError(PastError, FileNotFoundError):
    """There is no slide at that path."""
