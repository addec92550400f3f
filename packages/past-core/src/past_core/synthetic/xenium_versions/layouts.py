"""What tells the layouts of the bundle versions apart."""

from dataclasses import dataclass
from typing import Literal

from past_core.synthetic.cohort import SyntheticError


@dataclass(frozen=True)
class Layout:
    """The layout of one version.

    Attributes:
        software: The version string of the analysis software.
        formats: Major, minor and patch version of the file formats.
        native: The version of `write_bundle`'s own that it is made from.
        ids: How tables hold the cell ids; those of "integers" are 1..N.
        masks: How cells.zarr.zip ties labels to cells: by "polygon_sets", by "seg_mask_value", or "plain",
            where the label is the id.
        images: The image in focus: one "file" and a projection (mip), a "folder" of numbered channels, or a
            folder of "named" channels.
        text: Tables and matrix are there as text too.
    """

    software: str
    formats: tuple[int, int, int]
    native: Literal["2.0", "3.0"]
    ids: Literal["text", "bytes", "integers"] = "text"
    masks: Literal["polygon_sets", "seg_mask_value", "plain"] = "polygon_sets"
    images: Literal["file", "folder", "named"] = "folder"
    text: bool = False

    @property
    def one_nucleus(self) -> bool:
        """Whether every cell has its one nucleus, from which it was grown."""
        return self.masks != "polygon_sets"


LAYOUTS = {
    "1.0": Layout("xenium-1.0.1", (1, 0, 0), "2.0", "integers", "plain", "file", text=True),
    "1.3": Layout("xenium-1.3.0.5", (2, 0, 0), "2.0", "bytes", "seg_mask_value", "file", text=True),
    "1.9": Layout("xenium-1.9.2.0", (4, 0, 0), "2.0", "text", "seg_mask_value", "file", text=True),
    "2.0": Layout("xenium-2.0.0.12", (4, 3, 0), "2.0"),
    "3.0": Layout("xenium-3.0.0.15", (5, 0, 0), "3.0"),
    "4.0": Layout("xenium-4.0.0.1", (6, 0, 0), "3.0", images="named"),
}
"""By version: whole-number ids up to 1.2, ids of two parts and labels from 1.3, polygon sets from 2.0."""


def layout_of(version: str) -> Layout:
    """The layout of a version that can be written.

    Raises:
        SyntheticError: There is none.
    """
    if version not in LAYOUTS:
        raise SyntheticError(
            f"version {version!r} of the Xenium format cannot be written; choose from {sorted(LAYOUTS)}"
        )
    return LAYOUTS[version]
