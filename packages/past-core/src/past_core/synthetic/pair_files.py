"""The files of a synthetic pair: written once, and known again when they are whole."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile

from past_core.atomic import replacing
from past_core.synthetic.ihc import IhcStaining, dab_truth, draw_staining, ihc_light, render_ihc
from past_core.synthetic.misalign import Misalignment, draw_misalignment
from past_core.synthetic.render import he_concentrations, render_he
from past_core.synthetic.tissue import TissueConfig, simulate_tissue

RECORD = ".record.json"
"""File of a patient's folder with the size and the hash of every other."""

TILE = 256


@dataclass(frozen=True)
class SyntheticPair:
    """One patient's H&E with the IHC of the same section.

    Attributes:
        case: the patient.
        stain: a key of `ihc.ASSAYS`.
        he: RGB TIFF, its mpp in its resolution tags.
        ihc: RGB TIFF of the same size; exactly upon the H&E but for the misalignment that was asked for.
        nuclei: int32 TIFF of labels, upon the H&E.
        truth: CSV, one row a nucleus: label, x_um, y_um, cell_type, dab_od, protein; see `ihc.dab_truth`.
        mpp: micrometres per pixel of all three.
        config: what the tissue was made from.
        misalignment_um: root mean square displacement of the IHC.
    """

    case: str
    stain: str
    he: Path
    ihc: Path
    nuclei: Path
    truth: Path
    mpp: float
    config: TissueConfig
    misalignment_um: float = 0.0

    @property
    def staining(self) -> IhcStaining:
        """The true stains and white point of the IHC."""
        return draw_staining(self.config, self.stain)

    @property
    def misalignment(self) -> Misalignment | None:
        """How the IHC lies relative to the H&E; None where exactly upon it."""
        return draw_misalignment(self.config, rms_um=self.misalignment_um) if self.misalignment_um else None


def pair_in(folder: Path, config: TissueConfig, stain: str, *, misalignment_um: float) -> SyntheticPair:
    """A pair by the folder that holds the folders of the patients."""
    case = folder / config.patient
    files = (case / name for name in ("he.tif", f"ihc_{stain}.tif", "nuclei.tif", f"truth_{stain}.csv"))
    return SyntheticPair(config.patient, stain, *files, config.mpp, config, misalignment_um)


def is_whole(pair: SyntheticPair) -> bool:
    """All four files are there, as they were written."""
    return not _damaged(pair)


def make_pairs(pairs: Sequence[SyntheticPair]) -> None:
    """Simulates one patient and writes what is missing or damaged of its pairs.

    Args:
        pairs: Pairs of one patient, in one folder.
    """
    first = pairs[0]
    config, folder = first.config, first.he.parent
    folder.mkdir(parents=True, exist_ok=True)  # before the work, in case it cannot be
    missing = {path for pair in pairs for path in _damaged(pair)}
    tissue = simulate_tissue(config)
    he = he_concentrations(tissue)
    for pair in pairs:
        if missing.isdisjoint({pair.ihc, pair.truth}):
            continue
        light = ihc_light(tissue, pair.stain, he=he)
        image = render_ihc(tissue, pair.stain, misalignment=pair.misalignment, light=light)
        _write_image(pair.ihc, image, config.mpp)
        truth = dab_truth(tissue, pair.stain, light=light)
        _write(pair.truth, lambda path, truth=truth: truth.to_csv(path, index=False, float_format="%.6g"))
    if first.nuclei in missing:
        _write_image(first.nuclei, tissue.nucleus_labels.astype(np.int32), config.mpp)
    if first.he in missing:
        _write_image(first.he, render_he(tissue, concentrations=he), config.mpp)


def _damaged(pair: SyntheticPair) -> list[Path]:
    """Files that are missing or not as they were written."""
    record = _read_record(pair.he.parent)
    files = (pair.he, pair.ihc, pair.nuclei, pair.truth)
    return [path for path in files if not path.is_file() or record.get(path.name) != _fingerprint(path)]


def _read_record(folder: Path) -> dict[str, str]:
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_image(path: Path, image: np.ndarray, mpp: float) -> None:
    """Writes a tiled TIFF with its resolution in its tags; the same pixels give the same file."""

    def write(temporary: Path) -> None:
        tifffile.imwrite(
            temporary,
            image,
            tile=(TILE, TILE),
            photometric="rgb" if image.ndim == 3 else "minisblack",
            compression="adobe_deflate",
            compressionargs={"level": 3},
            predictor=True,
            resolution=(1e4 / mpp, 1e4 / mpp),
            resolutionunit="CENTIMETER",
            metadata=None,
            software="past",
        )

    _write(path, write)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file under its name when it is complete, then its fingerprint into the record."""
    with replacing(path) as temporary:
        write(temporary)
    record = _read_record(path.parent) | {path.name: _fingerprint(path)}
    with replacing(path.parent / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1, sort_keys=True))


def _fingerprint(path: Path) -> str:
    state = path.stat()
    return _hash(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, read again only where its size or time have changed."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
