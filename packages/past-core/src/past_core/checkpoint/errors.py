"""What can be wrong with a checkpoint."""

from past_core.errors import PastError


class CheckpointError(PastError, ValueError):
    """A checkpoint that is damaged, foreign, or does not fit."""


class CheckpointNotFoundError(PastError, FileNotFoundError):
    """There is no checkpoint at that path."""
