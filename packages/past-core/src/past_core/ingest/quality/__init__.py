"""Quality control of cells: bad cells are marked and counted, never deleted."""

from past_core.ingest.quality.assess import Assessment, assess, nuclei_of
from past_core.ingest.quality.cells import NO_GENES, OUTSIDE_IMAGE, REASONS
from past_core.ingest.quality.flags import quality_flags, quality_report
from past_core.ingest.quality.focus import focus_scores
from past_core.ingest.quality.haematoxylin import (
    NucleusHaematoxylin,
    Outlines,
    discs,
    nucleus_haematoxylin,
    outlines_of,
)
from past_core.ingest.quality.options import QualityOptionError, QualityOptions, parse_quality

__all__ = [
    "NO_GENES",
    "OUTSIDE_IMAGE",
    "REASONS",
    "Assessment",
    "NucleusHaematoxylin",
    "Outlines",
    "QualityOptionError",
    "QualityOptions",
    "assess",
    "discs",
    "focus_scores",
    "nuclei_of",
    "nucleus_haematoxylin",
    "outlines_of",
    "parse_quality",
    "quality_flags",
    "quality_report",
]
