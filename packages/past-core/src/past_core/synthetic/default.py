"""The embedded default: slide stores of a few synthetic patients, made once into the user's cache.

Each patient goes the way of real data: simulated tissue, Xenium bundle, ingest, slide store.
"""

import argparse
import dataclasses
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from past_core.synthetic.cache import (
    CACHE_VARIABLE,
    DefaultSlidesError,
    alone_in,
    cache_folder,
    in_parallel,
    key,
    run_module,
)
from past_core.synthetic.cohort import SyntheticError
from past_core.synthetic.tissue import TissueConfig, cohort

__all__ = ["CACHE_VARIABLE", "DefaultSlidesError", "cache_folder", "default_slides", "make_slide"]

logger = logging.getLogger(__name__)

NOT_OURS = {"ihc.py", "large.py", "misalign.py", "pair_files.py", "pairs.py", "protein.py"}
"""Sources of other defaults; the stores do not depend on them."""

INGEST_VERSION = 2
"""Raised whenever ingest writes another store of the same bundle without a new store format."""


def default_slides(
    *,
    morphology: float = 1.0,
    cache: Path | str | None = None,
    patients: int = 5,
    first: int = 1,
    size_um: float | None = None,
    divergence: float = 0.0,
) -> list[Path]:
    """The slide stores of the synthetic patients P1, P2, …; made where they are not in the cache yet.

    The simulator's cell types are their reference annotation, `obs["cell_type"]`.

    Making five takes about a minute on two cores. A slide appears under its name only when it is complete;
    callers at the same time wait for one another. The cache is keyed by the simulator's code and the
    configuration; deleting it is always safe.

    Args:
        morphology: Strength of morphology in [0, 1], see `TissueConfig`.
        cache: Folder of the cache; by default `PAST_CACHE`, else the user's cache folder.
        patients: How many patients.
        first: Number of the first; a patient is the same whoever else is asked for.
        size_um: Side of the section in µm, where it shall differ from the default.
        divergence: How far cancer types and patients depart from the shared programme, see `TissueConfig`.

    Returns:
        One store for each patient, in their order.

    Raises:
        DefaultSlidesError: The cache cannot be written or making a slide failed.
        SyntheticError: The configuration is out of range.
    """
    if first < 1 or patients < 1:
        raise SyntheticError(f"{patients} patients from number {first} on; expected at least one, from 1 on")
    configs = cohort(first + patients - 1, morphology=morphology, divergence=divergence)[first - 1 :]
    if size_um is not None:
        configs = [dataclasses.replace(config, size_um=size_um) for config in configs]
    root = cache_folder(cache) / "synthetic"
    paths = [root / _key(config) / f"{config.patient}.zarr" for config in configs]
    if all(map(_is_whole, paths)):
        return paths
    with alone_in(root):
        missing = [(c, p) for c, p in zip(configs, paths, strict=True) if not _is_whole(p)]
        if missing:
            _make_all(missing, root)
    return paths


def make_slide(config: TissueConfig, path: Path) -> None:
    """Simulates one patient, writes the bundle to a temporary folder and ingests it.

    Args:
        config: The patient's slide.
        path: The store to make; a damaged one in its place is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)  # before the work, in case it cannot be
    from past_core.ingest.annotations import add_annotations
    from past_core.ingest.write import StoreExistsError, write_store
    from past_core.ingest.xenium import read_bundle
    from past_core.synthetic.bundle import write_bundle
    from past_core.synthetic.expression import simulate_expression
    from past_core.synthetic.tissue import simulate_tissue

    tissue = simulate_tissue(config)
    with tempfile.TemporaryDirectory(prefix="past-") as temporary:
        bundle = write_bundle(tissue, simulate_expression(tissue), Path(temporary) / config.patient)
        he = bundle / f"{config.patient}_he_image.ome.tif"
        slide = read_bundle(
            bundle, he, name=config.patient, patient=config.patient, cancer_type=config.cancer_type
        )
        add_annotations(slide, bundle / "truth.parquet", columns=["cell_type"])
        if path.exists() and not _is_whole(path):
            shutil.rmtree(path)
        try:
            write_store(slide, path)
        except StoreExistsError:
            logger.info("%s was made by another process in the meantime", path)
        finally:
            slide.image.close()


def _key(config: TissueConfig) -> str:
    """Short hash of a configuration, of the code that turns it into a bundle and of the store's format."""
    from past_core.ingest.store import FORMAT

    parts = {"config": dataclasses.asdict(config), "format": FORMAT, "ingest": INGEST_VERSION}
    return key(parts, without=NOT_OURS)


def _is_whole(path: Path) -> bool:
    from past_core.ingest.store import SlideStore, StoreError, StoreNotFoundError

    try:
        SlideStore(path)
    except (StoreError, StoreNotFoundError):
        return False
    return True


def _make_all(missing: list[tuple[TissueConfig, Path]], root: Path) -> None:
    """Makes slides in fresh Python processes, each with a share of the patients."""
    logger.info("making %d synthetic slides in %s, once; five take about a minute", len(missing), root)
    done: list[str] = []

    def progress(patient: str) -> None:
        done.append(patient)
        logger.info("synthetic slide %s is ready (%d of %d)", patient, len(done), len(missing))

    in_parallel(missing, _run_worker, progress)


def _run_worker(share: list[tuple[TissueConfig, Path]], progress: Callable[[str], None]) -> None:
    jobs = [[dataclasses.asdict(config), str(path.resolve())] for config, path in share]
    run_module("past_core.synthetic.default", jobs, progress)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Makes synthetic slide stores (called by default_slides).")
    parser.add_argument("jobs", help="JSON list of [configuration, path]")
    for config, path in json.loads(parser.parse_args().jobs):
        make_slide(TissueConfig(**config), Path(path))
        sys.stdout.write(f"{config['patient']}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
