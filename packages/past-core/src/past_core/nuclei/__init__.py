"""Nuclei on H&E: where they are, how large, and how dark; found here or elsewhere."""

from past_core.nuclei.geojson import read_geojson
from past_core.nuclei.ihc4bc import Ihc4bcLabels, IhcLabels, read_ihc4bc
from past_core.nuclei.labels import read_labels
from past_core.nuclei.matching import f1_at_iou
from past_core.nuclei.segment import SEGMENTERS, Nuclei, NucleiError, nucleus_tiles, segment_nuclei
from past_core.nuclei.sources import LabelTiles, choose_segmenter, label_image, label_tiles
from past_core.nuclei.tiles import NucleusTile
from past_core.nuclei.watershed import WatershedSettings, watershed_labels

__all__ = [
    "SEGMENTERS",
    "Ihc4bcLabels",
    "IhcLabels",
    "LabelTiles",
    "Nuclei",
    "NucleiError",
    "NucleusTile",
    "WatershedSettings",
    "choose_segmenter",
    "f1_at_iou",
    "label_image",
    "label_tiles",
    "nucleus_tiles",
    "read_geojson",
    "read_ihc4bc",
    "read_labels",
    "segment_nuclei",
    "watershed_labels",
]
