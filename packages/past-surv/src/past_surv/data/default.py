"""The embedded default: the simulator's cohort of known hazard, and bags of its slides, made once."""

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from past_core.synthetic.cache import alone_in, cache_folder
from past_core.synthetic.survival_cohort import SyntheticCohort, default_cohort
from past_surv.data.bag_making import BagSettings, is_complete, make_bag
from past_surv.data.bag_writing import write_bag
from past_surv.data.bags import BagError, BagFolder, BagNotFoundError, read_bag
from past_surv.data.cohort import Cohort, read_cohort
from past_surv.data.groups import read_groups

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder

logger = logging.getLogger(__name__)

NAME = "synthetic"
RANDOM, RANDOM_DIM, RANDOM_UM = "random", 96, 56.0
"""Name, width and tiles of bags of noise: the demo encoder's patches, which say nothing."""


class SurvivalData(NamedTuple):
    """A cohort, its groups of genes, and its slides.

    Attributes:
        cohort: the patients.
        groups: symbols by group.
        slides: H&E by slide id.
        source: the simulator's files, with the true hazard.
    """

    cohort: Cohort
    groups: dict[str, list[str]]
    slides: dict[str, Path]
    source: SyntheticCohort


def default_survival_data(
    *, patients: int = 160, size_um: float = 256, seed: int = 0, cache: Path | str | None = None
) -> SurvivalData:
    """The simulator's cohort, made where it is not in the cache yet; see `default_cohort`."""
    made = default_cohort(patients=patients, size_um=size_um, seed=seed, cache=cache)
    return SurvivalData(read_cohort(made.table, name=NAME), read_groups(made.signatures), made.slides, made)


def default_bags(
    encoder: "str | Path | FrozenEncoder" = "demo",
    *,
    patients: int = 160,
    size_um: float = 256,
    seed: int = 0,
    cache: Path | str | None = None,
    batch_size: int = 64,
) -> BagFolder:
    """Bags of the default cohort's slides, on a grid of the encoder's field; embedded once into the cache.

    Args:
        encoder: an encoder, or a name or path as `load_image_encoder` takes it, or "random" for noise of the
            same number of patches: what a model makes of slides without their content.
        patients: as in `default_survival_data`.
        size_um: as in `default_survival_data`.
        seed: as in `default_survival_data`.
        cache: as in `default_survival_data`.
        batch_size: patches at a time.

    Returns:
        The folder of bags, keyed by the encoder's fingerprint.

    Raises:
        DefaultSlidesError: the cache cannot be written.
        EncoderError, EncoderNotFoundError: see `load_image_encoder`.
    """
    made = default_cohort(patients=patients, size_um=size_um, seed=seed, cache=cache)
    network = _encoder(encoder)
    kept = next(iter(made.slides.values())).parent.name  # names the simulator's code and the configuration
    root = cache_folder(cache) / "survival-bags"
    folder = root / f"{kept}-{RANDOM if network is None else network.fingerprint[:16]}"
    paths = {folder / f"{slide}.h5": path for slide, path in made.slides.items()}

    def missing() -> list[Path]:
        return [bag for bag, slide in paths.items() if not _is_whole(bag, slide, network)]

    if missing():
        with alone_in(root):
            wanted = missing()
            logger.info("making bags of %d synthetic slides in %s, once", len(wanted), folder)
            for bag in wanted:
                if network is None:
                    _random_bag(paths[bag], bag)
                else:
                    make_bag(paths[bag], network, bag, BagSettings(batch_size=batch_size))
    return BagFolder(folder)


def _encoder(encoder: "str | Path | FrozenEncoder") -> "FrozenEncoder | None":
    if not isinstance(encoder, str | Path):
        return encoder
    if str(encoder) == RANDOM:
        return None
    from past_core.encoders import load_image_encoder

    return load_image_encoder(encoder)


def _random_bag(slide: Path, path: Path) -> None:
    from past_core.slides import open_slide, tile_grid

    with open_slide(slide) as opened:
        grid = tile_grid(opened, tile_um=RANDOM_UM, min_tissue=BagSettings().min_tissue)
        seed = int.from_bytes(hashlib.sha256(opened.name.encode()).digest()[:8], "little")
    features = np.random.default_rng(seed).standard_normal((len(grid.centres), RANDOM_DIM))
    write_bag(
        path,
        features,
        grid.centres,
        {"encoder": RANDOM, "fingerprint": RANDOM, "kind": "grid", "patch_um": RANDOM_UM},
    )


def _is_whole(path: Path, slide: Path, encoder: "FrozenEncoder | None") -> bool:
    try:
        if encoder is None:
            return read_bag(path).encoder == RANDOM
        return is_complete(path, slide, encoder, BagSettings())
    except (BagError, BagNotFoundError):
        return False
