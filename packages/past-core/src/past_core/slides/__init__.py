"""Open any slide, read any region, at any resolution."""

from past_core.slides.errors import SlideError, SlideNotFoundError
from past_core.slides.kinds import SLIDE_SUFFIXES
from past_core.slides.opening import open_slide
from past_core.slides.patches import cut, iter_patches, patch_origin, patches
from past_core.slides.slide import Level, Slide, View
from past_core.slides.tissue import TileGrid, tile_grid, tissue_mask

__all__ = [
    "SLIDE_SUFFIXES",
    "Level",
    "Slide",
    "SlideError",
    "SlideNotFoundError",
    "TileGrid",
    "View",
    "cut",
    "iter_patches",
    "open_slide",
    "patch_origin",
    "patches",
    "tile_grid",
    "tissue_mask",
]
