"""Names and version of the `past` entry, which every container of a checkpoint holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from past_core.checkpoint.errors import CheckpointError

FORMAT = 1
"""Version of the `past` entry; a reader refuses every other one."""
KEY = "past"
GENE_MEANS = "gene_means"
OWN = {"format", "model", "vocabulary", GENE_MEANS}
"""Keys of the entry that loading uses up; all others are kept as `PastCheckpoint.info`."""


def check_format(path: Path, past: Mapping[str, Any]) -> None:
    """Refuses an entry of another version.

    Raises:
        CheckpointError: another version; the message names the software that wrote it.
    """
    if past.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {past.get('format')!r}, this past-core reads {FORMAT}; "
            f"install the version that wrote it ({past.get('software', 'unknown')})"
        )
