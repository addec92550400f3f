"""Names from tables as names of files."""

import re

MAX_BYTES = 200
"""Longest name, which leaves room for an ending and a writer's mark within the 255 that file systems have."""


def file_name(text: str) -> str:
    """A text as the name of a file in a folder: letters, digits and `_.+-`, never hidden, empty or a path.

    Two texts may become the same name: where that matters the caller numbers them.
    """
    plain = re.sub(r"[^\w.+-]+", "_", text).lstrip(".")
    return plain.encode()[:MAX_BYTES].decode(errors="ignore") or "unnamed"
