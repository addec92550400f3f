"""Errors of the networks."""

from past_core.errors import PastError


class ModelError(PastError, ValueError):
    """A model's configuration, weights or input do not fit."""


class WeightsNotFoundError(PastError, FileNotFoundError):
    """The file of initial weights is not there."""
