"""Other data that `past demo` writes: pairs of H&E and IHC, and a cohort with slides, genes and outcomes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

TRUTH = "truth.json"
"""File that marks a folder as a demo, so that `--overwrite` replaces nothing else."""

READER = (0.15, 0.35, 0.6)
"""Mean DAB (log10) from which the reader of the synthetic pairs calls a nucleus 1+, 2+ and 3+."""

Progress = Callable[[str], None]


def write_pairs(folder: Path, *, stain: str, patients: int, size_um: float, progress: Progress) -> list[str]:
    """Writes a folder a patient with H&E, IHC and nuclei, and two sheets.

    `slides.csv` has the columns path and name, as `past stain --sheet` takes them; `scores.csv` has slide,
    patient and expert, the H-score that a reader with the thresholds `READER` and perfect eyes gives the IHC.

    Args:
        folder: a folder that does not exist.
        stain: a key of `past_core.synthetic.ihc.ASSAYS`.
        patients: how many.
        size_um: side of the sections.
        progress: called with what is being made.

    Returns:
        The patients' names.

    Raises:
        SyntheticError: no such stain, or a size out of range.
        DefaultSlidesError: the cache cannot be written.
    """
    import numpy as np
    import pandas as pd

    from past_core.synthetic.pairs import default_pairs, positive_patients

    names = [config.patient for config in positive_patients(stain, patients)]
    progress(f"{patients} patients")
    pairs = default_pairs(stains=[stain], patients=names, size_um=size_um)
    scores = []
    for pair in pairs:
        case = folder / pair.case
        case.mkdir(parents=True)
        truth = pd.read_csv(pair.truth)
        classes = np.searchsorted(READER, truth["dab_od"].to_numpy(), side="right")
        scores.append((pair.case, pair.case, round(100 * float(classes.mean()), 1)))
        for path in (pair.he, pair.ihc, pair.nuclei, pair.truth):
            shutil.copyfile(path, case / path.name)
    slides = pd.DataFrame({"path": [f"{name}/he.tif" for name in names], "name": names})
    slides.to_csv(folder / "slides.csv", index=False)
    pd.DataFrame(scores, columns=["slide", "patient", "expert"]).to_csv(folder / "scores.csv", index=False)
    _mark(folder, {"kind": "pairs", "stain": stain, "patients": names, "reader": READER})
    return names


def write_cohort(folder: Path, *, patients: int, size_um: float, seed: int, progress: Progress) -> list[str]:
    """Writes `cohort.csv`, `signatures.csv`, `truth.csv` and `slides/`; see `default_cohort`.

    Args:
        folder: a folder that does not exist.
        patients: how many, from 10.
        size_um: side of the sections.
        seed: of all.
        progress: called with what is being made.

    Returns:
        The slides' names.

    Raises:
        SyntheticError: a number out of range.
        DefaultSlidesError: the cache cannot be written.
    """
    from past_core.synthetic.survival_cohort import default_cohort

    progress(f"{patients} patients")
    made = default_cohort(patients=patients, size_um=size_um, seed=seed)
    slides = folder / "slides"
    slides.mkdir(parents=True)
    for name, path in made.slides.items():
        shutil.copyfile(path, slides / f"{name}{path.suffix}")
    for path in (made.table, made.signatures, made.truth):
        shutil.copyfile(path, folder / path.name)
    _mark(folder, {"kind": "cohort", "patients": patients, "seed": seed, "mpp": made.mpp})
    return list(made.slides)


def _mark(folder: Path, content: dict[str, object]) -> None:
    (folder / TRUTH).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
