"""Makes the cohort once, into the user's cache."""

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from past_core.atomic import replacing
from past_core.synthetic.cache import alone_in, cache_folder, in_parallel, key, run_module
from past_core.synthetic.cohort import SyntheticError, TissueConfig
from past_core.synthetic.survival_cohort import outcomes
from past_core.synthetic.survival_cohort.molecules import draw_molecules, gene_groups
from past_core.synthetic.survival_cohort.people import CANCER_TYPE, ONCOTREE, Person, draw_person
from past_core.synthetic.survival_cohort.sections import MPP, make_section, read_visible, sha256, slide_path

logger = logging.getLogger(__name__)

NOT_OURS = {
    *("bundle.py", "bundle_cells.py", "bundle_frame.py", "bundle_images.py", "bundle_manifest.py"),
    *("bundle_polygons.py", "bundle_tables.py", "bundle_zarr.py", "ceiling.py", "default.py"),
    *("divergence.py", "expression.py", "ihc.py", "large.py", "misalign.py", "pair_files.py", "pairs.py"),
    "protein.py",
}
"""Sources of other defaults; neither slides nor tables depend on them."""

SLIDE_SOURCES = ("people.py", "sections.py")
"""Sources here that slides depend on; tables depend on all."""

RECORD = ".record.json"
"""File with the hash of every table, written last."""

LEAST_PATIENTS, MOST_PATIENTS = 10, 9999


@dataclass(frozen=True, kw_only=True)
class SyntheticCohort:
    """A cohort whose hazard is known.

    Attributes:
        folder: of the tables.
        table: `cohort.csv`, one row a slide as MCAT has it: `case_id`, `slide_id`, `survival_months`,
            `censorship` (1 = censored), `age`, `is_female`, `site`, `oncotree_code`, and
            `molecules.draw_molecules`.
        signatures: `signatures.csv`, a column a group of genes.
        truth: `truth.csv`, one row a case: `image_score`, `gene_score`, `age_score`, `log_hazard` (their
            weighted sum, `outcomes.LOG_HAZARD`), `death_months` and `follow_up_months`, of which the table
            has the lesser, and `median_months` of patients with this hazard.
        slides: H&E by slide id, TIFF with the resolution in its tags.
        mpp: µm per pixel of the slides.
    """

    folder: Path
    table: Path
    signatures: Path
    truth: Path
    slides: dict[str, Path]
    mpp: float = MPP


def default_cohort(
    *, patients: int = 160, size_um: float = 256, seed: int = 0, cache: Path | str | None = None
) -> SyntheticCohort:
    """The synthetic cohort; made where it is not in the cache yet.

    Log hazard = 1.1 · image + 0.7 · gene + 0.35 · age: the image's score is what the H&E shows (large
    nuclei of tumour cells, few lymphocytes to each), the gene's a latent in the RNA of two groups. Times are
    Weibull, censoring is independent, of about 45 %.

    160 patients take about two minutes on two cores. A file appears under its name only when it is complete,
    a damaged one is replaced, and callers at the same time wait for one another. The cache is keyed by the
    simulator's code and the configuration; deleting it is always safe.

    Args:
        patients: how many; a patient is the same whoever else is asked for.
        size_um: side of a section in µm.
        seed: of all.
        cache: folder of the cache; by default `PAST_CACHE`, else the user's cache folder.

    Raises:
        DefaultSlidesError: the cache cannot be written or making a slide failed.
        SyntheticError: a value is out of range.
    """
    if not LEAST_PATIENTS <= patients <= MOST_PATIENTS:
        raise SyntheticError(
            f"patients is {patients}; a survival cohort has {LEAST_PATIENTS} to {MOST_PATIENTS}"
        )
    TissueConfig(patient="any", cancer_type=CANCER_TYPE, seed=seed, size_um=float(size_um), mpp=MPP)
    root = cache_folder(cache) / "survival"
    images = root / f"slides-{_key(size_um, seed, SLIDE_SOURCES)}"
    folder = root / f"tables-{_key(size_um, seed)}-{patients}"
    people = [draw_person(number, seed=seed) for number in range(1, patients + 1)]
    cohort = SyntheticCohort(
        folder=folder,
        table=folder / "cohort.csv",
        signatures=folder / "signatures.csv",
        truth=folder / "truth.csv",
        slides={slide: slide_path(images, slide) for person in people for slide in person.slides},
    )
    if _missing(people, images) or not _has_tables(cohort):
        with alone_in(root):
            missing = _missing(people, images)
            if missing:
                _make_slides(missing, images, size_um)
            # Also where a slide was remade: the tables follow from what the slides show.
            if missing or not _has_tables(cohort):
                _write_tables(cohort, people, images)
    return cohort


def _key(size_um: float, seed: int, sources: tuple[str, ...] = ("*.py",)) -> str:
    """Of the simulator's sources, and those here that match."""
    here, own = Path(__file__).resolve().parent, hashlib.sha256()
    for source in sorted(path for pattern in sources for path in here.glob(pattern)):
        own.update(source.name.encode() + source.read_bytes())
    return key({"size_um": float(size_um), "seed": int(seed), "code": own.hexdigest()}, without=NOT_OURS)


def _missing(people: list[Person], images: Path) -> list[tuple[Person, str]]:
    """Slides that are not there as they were written."""
    return [
        (person, slide) for person in people for slide in person.slides if read_visible(images, slide) is None
    ]


def _has_tables(cohort: SyntheticCohort) -> bool:
    """All three are there, as they were written."""
    try:
        record = json.loads((cohort.folder / RECORD).read_text())
        return all(record.get(path.name) == sha256(path) for path in _tables(cohort))
    except (OSError, ValueError, AttributeError):
        return False


def _tables(cohort: SyntheticCohort) -> tuple[Path, ...]:
    return cohort.table, cohort.signatures, cohort.truth


def _write_tables(cohort: SyntheticCohort, people: list[Person], images: Path) -> None:
    rows, truth = [], []
    for person in people:
        shown = [read_visible(images, slide) for slide in person.slides]
        known = _truth(person, [slide for slide in shown if slide is not None])
        truth.append(known)
        death, end = float(known["death_months"]), float(known["follow_up_months"])
        row = {
            "case_id": person.case,
            "survival_months": round(max(min(death, end), 0.01), 2),
            "censorship": int(end < death),
            "age": person.age,
            "is_female": int(person.is_female),
            "site": person.site,
            "oncotree_code": ONCOTREE,
            **draw_molecules(person),
        }
        rows += [{"case_id": person.case, "slide_id": slide} | row for slide in person.slides]
    groups = {name: pd.Series(genes) for name, genes in gene_groups().items()}
    _write_csv(cohort.signatures, pd.DataFrame(groups))
    _write_csv(cohort.truth, pd.DataFrame(truth))
    _write_csv(cohort.table, pd.DataFrame(rows))
    with replacing(cohort.folder / RECORD) as temporary:
        temporary.write_text(json.dumps({path.name: sha256(path) for path in _tables(cohort)}, indent=1))


def _truth(person: Person, shown: list[dict[str, float]]) -> dict[str, float | str]:
    scores = {
        "image": outcomes.image_score(shown),
        "gene": person.gene_latent,
        "age": outcomes.age_score(person.age),
    }
    hazard = outcomes.log_hazard(**scores)
    death, end = outcomes.draw_times(person, hazard)
    return {
        "case_id": person.case,
        **{f"{name}_score": score for name, score in scores.items()},
        "log_hazard": hazard,
        "death_months": death,
        "follow_up_months": end,
        "median_months": outcomes.median_months(hazard),
    }


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def _make_slides(missing: list[tuple[Person, str]], images: Path, size_um: float) -> None:
    """Makes slides in fresh Python processes, each with a share of them."""
    logger.info(
        "making %d slides of a synthetic cohort in %s, once; 160 take about two minutes", len(missing), images
    )
    done = 0

    def progress(slide: str) -> None:
        nonlocal done
        done += 1
        if done % 20 == 0 or done == len(missing):
            logger.info("synthetic cohort: %d of %d slides are ready (%s)", done, len(missing), slide)

    def run(share: list[tuple[Person, str]], report: Callable[[str], None]) -> None:
        jobs = [
            [person.number, person.seed, slide, size_um, str(images.resolve())] for person, slide in share
        ]
        run_module("past_core.synthetic.survival_cohort.making", jobs, report)

    in_parallel(missing, run, progress)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Makes slides of the cohort (called by default_cohort).")
    parser.add_argument("jobs", help="JSON list of [number, seed, slide, size, folder]")
    for number, seed, slide, size_um, folder in json.loads(parser.parse_args().jobs):
        make_section(draw_person(number, seed=seed), slide, Path(folder), size_um=size_um)
        sys.stdout.write(f"{slide}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
