"""The embedded default: the simulator's cohort of known hazard, and bags of its slides, made once."""

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from past_core.embed.output import source_key
from past_core.synthetic.cache import alone_in, cache_folder
from past_core.synthetic.survival_cohort import SyntheticCohort, default_cohort
from past_surv.data.bag_writing import write_bag
from past_surv.data.bags import BagError, BagFolder, BagNotFoundError, read_bag
from past_surv.data.cohort import Cohort, read_cohort
from past_surv.data.groups import read_groups

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder

logger = logging.getLogger(__name__)

NAME = "synthetic"
RANDOM, RANDOM_DIM = "random", 96
"""Name and width of bags of noise: as many patches at the same places, which say nothing."""
MIN_TISSUE = 0.25
"""Least share of tissue in a tile."""


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
    encoder: "str | FrozenEncoder" = "demo",
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
    identity = RANDOM if network is None else network.fingerprint
    root = cache_folder(cache) / "survival-bags"
    kept = next(iter(made.slides.values())).parent.name  # names the simulator's code and the configuration
    folder = root / f"{kept}-{identity[:16]}"
    paths = {slide: folder / f"{slide}.h5" for slide in made.slides}
    if all(_is_whole(path, identity, made.slides[slide]) for slide, path in paths.items()):
        return BagFolder(folder)
    with alone_in(root):
        missing = [s for s, path in paths.items() if not _is_whole(path, identity, made.slides[s])]
        logger.info("making bags of %d synthetic slides in %s, once", len(missing), folder)
        for slide in missing:
            _make_bag(made.slides[slide], paths[slide], network, batch_size)
    return BagFolder(folder)


def _encoder(encoder: "str | FrozenEncoder") -> "FrozenEncoder | None":
    if isinstance(encoder, str | Path):
        if str(encoder) == RANDOM:
            return None
        from past_core.encoders import load_image_encoder

        return load_image_encoder(encoder)
    return encoder


def _make_bag(slide: Path, path: Path, encoder: "FrozenEncoder | None", batch_size: int) -> None:
    from past_core.embed.vectors import embed_patches
    from past_core.slides import open_slide, tile_grid

    with open_slide(slide) as opened:
        spacing = 56.0 if encoder is None else encoder.field_um
        grid = tile_grid(opened, tile_um=spacing, min_tissue=MIN_TISSUE)
        names = [f"{row}_{column}" for row, column in grid.index]
        manifest = {"kind": "grid", "patch_um": spacing, "slide": opened.name, "source": source_key(slide)}
        if encoder is None:
            seed = int.from_bytes(hashlib.sha256(opened.name.encode()).digest()[:8], "little")
            features = np.random.default_rng(seed).standard_normal((len(names), RANDOM_DIM))
            manifest |= {"encoder": RANDOM, "fingerprint": RANDOM}
        else:
            features = embed_patches(
                opened, grid.centres, names, encoder, batch_size, lambda done: None, None
            )
            manifest |= {
                "encoder": encoder.name,
                "fingerprint": encoder.fingerprint,
                "space": encoder.space,
                "mpp": encoder.mpp,
            }
    write_bag(path, features, grid.centres, manifest)


def _is_whole(path: Path, fingerprint: str, slide: Path) -> bool:
    """It is there, can be opened, and was made by this encoder from this slide."""
    try:
        manifest = read_bag(path).manifest
    except (BagError, BagNotFoundError):
        return False
    return manifest.get("fingerprint") == fingerprint and manifest.get("source") == source_key(slide)
