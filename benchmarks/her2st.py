"""The HER2-positive breast tumours of Andersson et al. 2021 (Spatial Transcriptomics) as slide stores.

Five sections of three patients: A1, B4, C2, C3, C4. A "cell" of these stores is a spot of 100 µm, with the
tissue of several dozen cells under it.
"""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from past_core.errors import PastError
from past_core.ingest.hest import read_hest
from past_core.ingest.layout import is_store
from past_core.ingest.write import write_store
from past_core.slides import open_slide
from past_core.synthetic.default import cache_folder

logger = logging.getLogger(__name__)

SECTIONS = ("A1", "B4", "C2", "C3", "C4")
PITCH_UM = 200.0
"""Distance between the centres of neighbouring spots of the array (Ståhl et al. 2016)."""
SPOT_UM = 100.0
"""Diameter of a spot."""
ASSAY = "10x 3' transcription profiling"
"""The vocabulary has no token for arrays of spots; their chemistry captures 3' ends of transcripts."""
MIN_COUNTS = 100
"""Spots with fewer counts are left out (6 of 1,180): shares of so few counts are noise, which normalisation
would turn into the largest values of all. The median spot of section B4 has 648."""
FULL_WIDTHS = {"A1": 6954, "B4": 9272, "C2": 9274, "C3": 9270, "C4": 9278}
"""Width of the image that each selection's pixels refer to."""
VERSION = 2
"""Raised whenever the stores made here change."""


class Her2stError(PastError, FileNotFoundError):
    """The data set, or a file of it, is not there or is not what is expected."""


@dataclass(frozen=True)
class Spots:
    """Where the spots of one section are.

    Attributes:
        places: `(N, 2)` x, y in pixels of the image, indexed as the counts are ("10x13").
        mpp: µm per pixel of the image.
    """

    places: pd.DataFrame
    mpp: float


def find_her2st(data: Path | None = None) -> Path:
    """The data set's folder: `data` itself, or below `PAST_SHARED_DATA`, or beside the checkout.

    Raises:
        Her2stError: none of these is there.
    """
    shared = os.environ.get("PAST_SHARED_DATA")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    candidates = [data, Path(shared) / "her2st" if shared else None, beside / "her2st"]
    for folder in candidates:
        if folder is not None and (folder / "counts").is_dir():
            return folder
    raise Her2stError(
        "her2st is not here: no folder with counts/, spots/ and images/ was found; set PAST_SHARED_DATA to "
        "the folder that holds her2st, or give its path (--data FOLDER)"
    )


def read_spots(path: Path, image_width: int) -> Spots:
    """Places of spots in an image and its resolution, from the array's pitch.

    The selection's pixels may belong to a larger version of the image (section A1's image was scaled from
    6,954 to 2,000 px): the factor is `image_width` over that width. Pixels are an affine function of the
    adjusted array coordinates `new_x, new_y`, of which one unit is 200 µm; both axes give a resolution, of
    which the geometric mean is taken.

    Args:
        path: `SECTION_selection.tsv`.
        image_width: of the image in pixels.

    Raises:
        Her2stError: other columns, or another section.
    """
    table = pd.read_csv(path, sep="\t")
    wanted = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y"]
    if not set(wanted) <= set(table.columns):
        raise Her2stError(f"{path} has the columns {', '.join(table.columns)}; expected {', '.join(wanted)}")
    section = path.name.split("_")[0]
    if section not in FULL_WIDTHS:
        raise Her2stError(
            f"{path} is of section {section!r}, and the width of the image that its pixels refer to is known "
            f"for {', '.join(FULL_WIDTHS)} only"
        )
    factor = image_width / FULL_WIDTHS[section]
    places = table[["pixel_x", "pixel_y"]].to_numpy(np.float64) * factor
    array = np.column_stack([table[["new_x", "new_y"]].to_numpy(np.float64), np.ones(len(table))])
    slope = np.linalg.lstsq(array, places, rcond=None)[0][:2]
    pitch_px = np.sqrt(np.linalg.norm(slope[0]) * np.linalg.norm(slope[1]))
    index = [f"{x}x{y}" for x, y in zip(table["x"], table["y"], strict=True)]
    return Spots(pd.DataFrame(places, index=index, columns=["x", "y"]), float(PITCH_UM / pitch_px))


def her2st_slides(
    data: Path | None = None, *, sections: Sequence[str] = SECTIONS, cache: Path | None = None
) -> list[Path]:
    """The sections' slide stores, made once into the user's cache (about a minute).

    Args:
        data: the data set's folder, see `find_her2st`.
        sections: which of `SECTIONS`.
        cache: other folder of the cache.

    Raises:
        Her2stError: see `find_her2st`; or a file is missing.
    """
    folder = find_her2st(data)
    root = cache_folder(cache) / "her2st" / f"v{VERSION}"
    paths = [root / f"{section}.zarr" for section in sections]
    for section, path in zip(sections, paths, strict=True):
        if not is_store(path):
            _make(folder, section, path)
    return paths


def _make(folder: Path, section: str, path: Path) -> None:
    image = next((folder / "images").glob(f"{section}.*"), None)
    counts_path, spots_path = (
        folder / "counts" / f"{section}.tsv.gz",
        folder / "spots" / f"{section}_selection.tsv",
    )
    for found, what in ((image, "image"), (counts_path, "counts"), (spots_path, "spots")):
        if found is None or not found.is_file():
            raise Her2stError(f"her2st has no {what} of section {section} in {folder}")
    with open_slide(image, mpp=1.0) as opened:
        width = opened.width
    spots = read_spots(spots_path, width)
    counts = pd.read_csv(counts_path, sep="\t", index_col=0)
    shared = counts.index.intersection(spots.places.index)
    if not len(shared):
        raise Her2stError(f"{counts_path} and {spots_path} share no spot")
    if len(shared) < len(counts):
        logger.info("%s: %d spots have counts and no place", section, len(counts) - len(shared))
    enough = counts.loc[shared].sum(axis=1) >= MIN_COUNTS
    if not enough.all():
        logger.info("%s: %d spots have fewer than %d counts", section, int((~enough).sum()), MIN_COUNTS)
    shared = shared[enough.to_numpy()]
    table = ad.AnnData(
        sparse.csr_matrix(counts.loc[shared].to_numpy(np.int32)),
        obs=pd.DataFrame(index=shared),
        var=pd.DataFrame({"symbol": counts.columns}, index=counts.columns),
        obsm={"spatial": spots.places.loc[shared].to_numpy()},
    )
    _labels(folder, section, table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="past-") as temporary:
        h5ad = Path(temporary) / f"{section}.h5ad"
        table.write_h5ad(h5ad)
        slide = read_hest(h5ad, image, mpp=spots.mpp, swap_xy=False, assay=ASSAY, organism="human")
        slide.patient, slide.cancer_type = section[0], "breast"
        slide.table.obs["cell_area_um2"] = np.pi * (SPOT_UM / 2) ** 2
        try:
            write_store(slide, path)
        finally:
            slide.image.close()


def _labels(folder: Path, section: str, table: ad.AnnData) -> None:
    """The pathologist's labels, where there are some, as `annotation`; joined on rounded x, y."""
    path = folder / "labels" / f"{section}_labeled_coordinates.tsv"
    if not path.is_file():
        return
    labels = pd.read_csv(path, sep="\t").dropna(subset=["x", "y"])
    index = [f"{round(x)}x{round(y)}" for x, y in zip(labels["x"], labels["y"], strict=True)]
    known = pd.Series(labels["label"].to_numpy(str), index=index)
    known = known[~known.index.duplicated()]
    table.obs["annotation"] = known.reindex(table.obs_names).fillna("undetermined").to_numpy(str)
