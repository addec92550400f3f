"""The embedded default of virtual staining: synthetic H&E and IHC, made once into the user's cache.

A patient's folder holds `he.tif`, `nuclei.tif`, and for each stain `ihc_<stain>.tif` and `truth_<stain>.csv`.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from past_core.synthetic.cache import Progress, alone_in, cache_folder, in_parallel, key, run_module
from past_core.synthetic.cohort import SyntheticError, TissueConfig, cohort
from past_core.synthetic.ihc import assay
from past_core.synthetic.large import large_slide
from past_core.synthetic.misalign import draw_misalignment
from past_core.synthetic.pair_files import SyntheticPair, is_whole, make_pairs, pair_in
from past_core.synthetic.patient import draw_patient

__all__ = ["SyntheticPair", "default_pairs", "large_slide", "positive_patients"]

logger = logging.getLogger(__name__)

FIRST, PATIENTS = 8, 10
"""Number of the first patient of the default (the demo encoder was trained on earlier ones), and how many."""

KINDS = ("breast", "ovarian")
"""Cancer types of the default patients: those whose tumours bear the receptors."""


def default_pairs(
    *,
    stains: Sequence[str] = ("er",),
    patients: Sequence[str] | None = None,
    misalignment_um: float = 0.0,
    size_um: float = 625.0,
    cache: Path | str | None = None,
) -> list[SyntheticPair]:
    """Synthetic pairs of H&E and IHC; made where they are not in the cache yet.

    Making ten takes less than a minute on two cores. A file appears under its name only when it is complete,
    a damaged one is replaced, and callers at the same time wait for one another. The cache is keyed by the
    simulator's code and the configuration; deleting it is always safe.

    Args:
        stains: Keys of `ihc.ASSAYS`.
        patients: Names, P1, P2, …, as in `tissue.cohort`; by default `positive_patients` of each stain.
        misalignment_um: Root mean square displacement of the IHC, see `misalign`.
        size_um: Side of the sections.
        cache: Folder of the cache; by default `PAST_CACHE`, else the user's cache folder.

    Returns:
        The pairs of the first stain in the patients' order, then those of the next.

    Raises:
        DefaultSlidesError: The cache cannot be written or making a pair failed.
        SyntheticError: No such stain or patient, or the configuration is out of range.
    """
    wanted = [
        (dataclasses.replace(config, size_um=float(size_um)), stain)
        for stain in dict.fromkeys(stains)
        for config in _patients(stain, patients)
    ]
    if not wanted:
        raise SyntheticError(
            f"stains {list(stains)} of patients {patients} make no pair; expected at least one of each"
        )
    root = cache_folder(cache) / "ihc-pairs"
    pairs = []
    for config, stain in wanted:
        draw_misalignment(config, rms_um=misalignment_um)  # refuses what cannot be before any work
        folder = root / _key(config, misalignment_um)
        pairs.append(pair_in(folder, config, stain, misalignment_um=misalignment_um))
    if all(map(is_whole, pairs)):
        return pairs
    with alone_in(root):
        missing = [pair for pair in pairs if not is_whole(pair)]
        if missing:
            _make_all(missing, root)
    return pairs


def positive_patients(stain: str, n: int = PATIENTS) -> list[TissueConfig]:
    """The first breast and ovarian patients from P8 on whose tumour is positive for the stain's gene.

    Args:
        stain: A key of `ihc.ASSAYS`; for one of no receptor (Ki67) every patient counts.
        n: How many.

    Raises:
        SyntheticError: No such stain.
    """
    gene = assay(stain).gene
    found = (
        config
        for config in map(_patient, itertools.count(FIRST))
        if config.cancer_type in KINDS and draw_patient(config).positive.get(gene, True)
    )
    return list(itertools.islice(found, n))


def _patient(number: int) -> TissueConfig:
    return cohort(number)[-1]


def _patients(stain: str, names: Sequence[str] | None) -> Iterator[TissueConfig]:
    if names is None:
        yield from positive_patients(stain)
        return
    assay(stain)
    for name in dict.fromkeys(names):
        if not re.fullmatch(r"P[1-9][0-9]{0,4}", name):
            raise SyntheticError(f"no synthetic patient {name!r}; expected P1, P2, …, such as 'P8'")
        yield _patient(int(name[1:]))


def _key(config: TissueConfig, misalignment_um: float) -> str:
    """One folder for all patients of one configuration."""
    shared = {k: v for k, v in dataclasses.asdict(config).items() if k not in {"patient", "cancer_type"}}
    return key(
        {"config": shared, "misalignment_um": float(misalignment_um)}, without={"default.py", "large.py"}
    )


def _make_all(missing: list[SyntheticPair], root: Path) -> None:
    """Makes pairs in fresh Python processes, each with a share of the patients."""
    jobs: dict[str, list[SyntheticPair]] = {}
    for pair in missing:
        jobs.setdefault(pair.case, []).append(pair)
    logger.info(
        "making pairs of %d synthetic patients in %s, once; ten take less than a minute", len(jobs), root
    )
    done: list[str] = []

    def progress(case: str) -> None:
        done.append(case)
        logger.info("synthetic pair %s is ready (%d of %d)", case, len(done), len(jobs))

    in_parallel(list(jobs.values()), _run_worker, progress)


def _run_worker(share: list[list[SyntheticPair]], progress: Progress) -> None:
    jobs = [
        [
            dataclasses.asdict(pairs[0].config),
            [pair.stain for pair in pairs],
            pairs[0].misalignment_um,
            str(pairs[0].he.parent.parent.resolve()),
        ]
        for pairs in share
    ]
    run_module("past_core.synthetic.pairs", jobs, progress)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Makes synthetic pairs (called by default_pairs).")
    parser.add_argument("jobs", help="JSON list of [configuration, stains, misalignment, folder]")
    for config, stains, misalignment, folder in json.loads(parser.parse_args().jobs):
        tissue = TissueConfig(**config)
        make_pairs([pair_in(Path(folder), tissue, stain, misalignment_um=misalignment) for stain in stains])
        sys.stdout.write(f"{tissue.patient}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
