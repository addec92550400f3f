"""An exported MCAT, a cohort of two slides a patient at most, and slides whose patches are known."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tifffile
import torch

from past_surv.data.bag_writing import write_bag
from past_surv.data.cohort import Cohort, read_cohort
from past_surv.models.files import LoadedModel, load_survival, save_survival
from past_surv.models.mcat import MCAT
from past_surv.models.mil import AttentionMIL
from past_surv.models.snn import SNN

DIM, TILE, MPP = 8, 112, 0.5
GROUPS = {"Tumor suppressors": ["G0_rnaseq", "G1_rnaseq", "G2_cnv"], "Kinases": ["G1_rnaseq", "G3_mut"]}
COLUMNS = ["G0_rnaseq", "G1_rnaseq", "G2_cnv", "G3_mut"]


class Made(NamedTuple):
    """Where everything is."""

    table: Path
    bags: Path
    slides: Path


def manifest(kind: str, **given: Any) -> dict[str, Any]:
    groups = {} if kind == "mil" else GROUPS
    return {
        "kind": kind, "options": {"width": 16} | ({"fusion": "concat"} if kind == "mcat" else {}),
        "cohort": "made", "fold": "0", "unit": "months", "vectors": False,
        "group_names": list(groups), "group_columns": list(groups.values()),
        "group_sizes": [len(columns) for columns in groups.values()],
        "scalings": [
            {"mean": [1.0] * len(columns), "deviation": [2.0] * len(columns)} for columns in groups.values()
        ],
        "edges": [5.0, 10.0, 20.0], "patch_dim": None if kind == "snn" else DIM, "encoder": "made",
        "encoder_fingerprint": "f" * 16,
    } | given  # fmt: skip


def network(kind: str, seed: int = 0) -> torch.nn.Module:
    """A network with weights large enough to look somewhere."""
    torch.manual_seed(seed)
    model = {
        "mcat": lambda: MCAT([3, 2], patch_dim=DIM, intervals=4, width=16),
        "mil": lambda: AttentionMIL(DIM, intervals=4, width=16),
        "snn": lambda: SNN(4, intervals=4, width=16),
    }[kind]()
    if kind == "mcat":
        with torch.no_grad():
            model.coattn.in_proj_weight.mul_(6)
    return model


def exported(folder: Path, kind: str, **given: Any) -> Path:
    return save_survival(folder / f"{kind}.safetensors", network(kind), manifest(kind, **given))


def loaded(folder: Path, kind: str) -> LoadedModel:
    return load_survival(exported(folder, kind))


def made(folder: Path) -> Made:
    """Four patients: C0 has two slides, C1 lacks the second group, C2 has no bag, C3 no genes."""
    stream = np.random.default_rng(0)
    genes = pd.DataFrame(stream.normal(1, 2, (4, 4)), columns=COLUMNS)
    genes.loc[1, ["G1_rnaseq", "G3_mut"]] = np.nan
    genes.loc[3] = np.nan
    table = pd.DataFrame(
        {
            "case_id": ["C0", "C1", "C2", "C3"], "slide_id": ["S0.svs", "S1.svs", "S2.svs", "S3.svs"],
            "survival_months": [3.0, 8.0, 12.0, 30.0], "censorship": [0, 0, 1, 0],
        }
    ).join(genes)  # fmt: skip
    table.loc[4] = table.loc[0]
    table.loc[4, "slide_id"] = "S0b.svs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = Made(folder / "made.csv", folder / "bags", folder / "slides")
    table.to_csv(paths.table, index=False)
    paths.slides.mkdir()
    for name, (rows, columns) in {"S0": (3, 4), "S0b": (2, 2), "S1": (2, 3), "S3": (2, 2)}.items():
        write_slide(paths.slides / f"{name}.tif", rows, columns)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1) * TILE + TILE / 2
        write_bag(
            paths.bags / f"{name}.h5",
            stream.normal(size=(rows * columns, DIM)),
            np.stack([x, y], axis=1),
            {
                "encoder": "made", "fingerprint": "f" * 16, "kind": "grid", "patch_um": TILE * MPP,
                "mpp": MPP, "patch_size": TILE, "slide_size": [columns * TILE, rows * TILE],
            },
        )  # fmt: skip
    return paths


def write_slide(path: Path, rows: int, columns: int) -> None:
    """Tiles of one grey each, brighter along x and then y."""
    shades = (100 + 8 * np.arange(rows * columns)).reshape(rows, columns).astype(np.uint8)
    image = np.kron(shades, np.ones((TILE, TILE), np.uint8))[..., None].repeat(3, axis=2)
    tifffile.imwrite(path, image, photometric="rgb", resolution=(1e4 / MPP,) * 2, resolutionunit="CENTIMETER")


def cohort(paths: Made) -> Cohort:
    return read_cohort(paths.table)
