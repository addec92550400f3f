"""A small cohort whose hazard is in one gene and in the patches of its slides."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from past_surv.data.bags import BagFolder
from past_surv.data.cohort import Cohort, read_cohort

DIM = 6
GROUPS = {"first": ["G0", "G1", "G2"], "second": ["G2", "G3"]}
OTHERS = [f"G{k}_rnaseq" for k in range(4)]


def cohort_table(n: int = 60, seed: int = 0) -> pd.DataFrame:
    """The table; `image` is what the bags show, and no column that a system reads."""
    stream = np.random.default_rng(seed)
    genes, image = stream.normal(size=(n, 4)), stream.normal(size=n)
    age = stream.integers(40, 80, n)
    hazard = np.exp(1.2 * genes[:, 0] + 1.2 * image + 0.02 * (age - 60))
    death, end = stream.exponential(30 / hazard) + 0.5, stream.exponential(60, n) + 0.5
    return pd.DataFrame(
        {
            "case_id": [f"C{i:03}" for i in range(n)],
            "slide_id": [f"S{i:03}.svs" for i in range(n)],
            "survival_months": np.minimum(death, end).round(3),
            "censorship": (death > end).astype(int),
            "age": age,
            "is_female": stream.integers(0, 2, n),
            "site": stream.integers(0, 12, n).astype(str),
            "image": image,
            **{name: genes[:, k] for k, name in enumerate(OTHERS)},
        }
    )


def write_bags(folder: Path, table: pd.DataFrame, *, seed: int = 0) -> BagFolder:
    """One bag a slide, of 4 to 9 patches; the share of bright ones follows `image`."""
    stream = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for slide, image in zip(table["slide_id"], table["image"], strict=True):
        patches = stream.normal(scale=0.3, size=(int(stream.integers(4, 10)), DIM))
        patches[:, 0] += image
        with h5py.File(folder / f"{slide.removesuffix('.svs')}.h5", "w") as file:
            file["features"] = patches.astype(np.float16)
            file["coords"] = stream.uniform(0, 5000, (len(patches), 2))
    return BagFolder(folder)


def read_made(folder: Path, table: pd.DataFrame) -> Cohort:
    """The cohort of a table."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tcga_made_all_clean.csv"
    table.drop(columns="image").to_csv(path, index=False)
    return read_cohort(path)
