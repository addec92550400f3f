"""What every reader of this room raises, whatever the library below it said."""


class ForeignError(ValueError):
    """A file from elsewhere is damaged, hostile, or of another kind.

    No PastError yet: the caller makes one that names the file, and says what was expected of it.
    """


def reason(error: BaseException, *, most: int = 200) -> str:
    """The first line of what a library said, or the error's name where it said nothing."""
    said = str(error).strip()
    return said.splitlines()[0][:most] if said else type(error).__name__
