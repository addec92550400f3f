"""Nuclei on H&E: where they are, how large, and how dark."""

from past_core.nuclei.segment import SEGMENTERS, Nuclei, NucleiError, nucleus_tiles, segment_nuclei
from past_core.nuclei.watershed import WatershedSettings, watershed_labels

__all__ = [
    "SEGMENTERS",
    "Nuclei",
    "NucleiError",
    "WatershedSettings",
    "nucleus_tiles",
    "segment_nuclei",
    "watershed_labels",
]
