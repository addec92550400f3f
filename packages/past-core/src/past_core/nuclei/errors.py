"""The root of the errors about nuclei."""

from past_core.errors import PastError


class NucleiError(PastError, ValueError):
    """A slide on which nuclei cannot be found, or an unknown segmenter."""
