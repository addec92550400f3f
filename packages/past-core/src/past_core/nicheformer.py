"""The paper's 20,310 genes and the technology means published with them (theislab/nicheformer, BSD-3).

The genes are fetched once into the cache and checked by their content; a file given by path is checked
alike. The means are those of the Nicheformer corpus: they cover 1,735 genes for Xenium, and 48 of the
MERFISH table are negative, an error upstream, and count as missing here.
"""

import csv
import hashlib
import os
from pathlib import Path
from typing import Literal

import numpy as np

from past_core.foreign.arrays import open_npy
from past_core.foreign.sizes import check_hdf5
from past_core.vocabulary import FIRST_GENE, VocabularyError, VocabularyNotFoundError

N_GENES = 20_310
Technology = Literal["xenium", "merfish", "cosmx", "iss", "dissociated"]

GENES_SHA256 = "2100328d6c7832bfea544a0c43416acc0b8c8f5e71ea8b01bde6edf872d82baa"
"""Of the ids in order, joined by newlines."""
MEANS_SHA256 = {
    "xenium": "ff59853e95e584ca74ecc7353780e21040663c646bf9ec8dd761b567349aa213",
    "merfish": "fa1c6ce7fae36156b9cd50efdf8d855ceaff7221311b7a7065aba8aa4a61f3ad",
    "cosmx": "406119b905804782c2b2360baf6ad3669f613af90f50c264d834203a340f5164",
    "iss": "bfd5cb96e654c68ee8f8b6446eada58a1f02d44e94eae75770e4f1fad1318d0c",
    "dissociated": "eeae04c0985e850c70e81961f457edad43a24cb3fdc42e095721bb1e8a589dae",
}
"""Of the means, NaN as 0, rounded half up, as little-endian int64: what nicheformer divides by."""

_REPOSITORY = "https://raw.githubusercontent.com/theislab/nicheformer"
_FILES = {
    "model.h5ad": "a9b706d008011019e3fb858822e7686391940495",
    "xenium_mean_script.npy": "2e0bc5b593a039421ecd0d8c1b43b630c7ae620f",
    "merfish_mean_script.npy": "a9b706d008011019e3fb858822e7686391940495",
    "cosmx_mean_script.npy": "2e0bc5b593a039421ecd0d8c1b43b630c7ae620f",
    "iss_mean_script.npy": "2e0bc5b593a039421ecd0d8c1b43b630c7ae620f",
    "dissociated_mean_script.npy": "b175a11fae32f790104521aeb5f64d16346e3be5",
}
"""Files of `data/model_means`, each with a commit that holds it."""


def read_genes(path: str | Path | None = None) -> tuple[str, ...]:
    """The 20,310 Ensembl ids in the order of their tokens.

    Args:
        path: `nicheformer_vocab_20310.csv` or `model.h5ad`; None fetches the latter once.

    Raises:
        VocabularyError: the file cannot be read, or holds other genes or another order.
        VocabularyNotFoundError: no such file, or it could not be fetched.
    """
    path = _existing(path, "model.h5ad")
    genes = _genes_of_h5ad(path) if path.suffix.lower() == ".h5ad" else _genes_of_csv(path)
    if hashlib.sha256("\n".join(genes).encode()).hexdigest() != GENES_SHA256:
        msg = (
            f"{path} holds {len(genes):,} genes, but not the {N_GENES:,} of nicheformer in their order "
            "(content hash differs); delete it to fetch it again, or use Vocabulary.from_panel"
        )
        raise VocabularyError(msg)
    return tuple(genes)


def read_means(technology: str, path: str | Path | None = None) -> np.ndarray:
    """A technology's published non-zero means, (20310,) float64, NaN where there is none.

    For `rank_tokenize` with `missing="drop"` or `"error"`. See `prepared_means` for nicheformer's own use.

    Args:
        technology: "xenium", "merfish", "cosmx", "iss" or "dissociated".
        path: `nicheformer_vocab_20310.csv`, or the repository's `<technology>_mean_script.npy`; None
            fetches the latter once.

    Raises:
        VocabularyError: the file cannot be read or holds other means, or no such technology.
        VocabularyNotFoundError: no such file, or it could not be fetched.
    """
    if technology not in MEANS_SHA256:
        msg = f"no published means for {technology!r}; there are {', '.join(MEANS_SHA256)}"
        raise VocabularyError(msg)
    path = _existing(path, f"{technology}_mean_script.npy")
    try:
        if path.suffix.lower() == ".npy":
            means = open_npy(path).astype(np.float64).reshape(-1)
        else:
            column = f"{technology}_nonzero_mean"
            means = np.array([float(row[column] or "nan") for row in _rows_of_csv(path, column)])
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, VocabularyError):
            raise
        msg = f"{path} cannot be read as the {technology} means: {error}"
        raise VocabularyError(msg) from error
    rounded = _half_up(np.nan_to_num(means)).astype("<i8")
    if hashlib.sha256(rounded.tobytes()).hexdigest() != MEANS_SHA256[technology]:
        msg = f"{path} does not hold the published {technology} means (content hash differs); fetch it again"
        raise VocabularyError(msg)
    return np.where(means > 0, means, np.nan)


def prepared_means(technology: Technology, path: str | Path | None = None) -> np.ndarray:
    """The numbers that nicheformer divides by, (20310,): means rounded half up, 1 where there is none.

    A gene without a mean is divided by 1 and so outranks all genes that have one: on a 5,000-gene Xenium
    panel two of three genes. `rank_tokenize` with means of your own training cells has no such bias.
    """
    rounded = _half_up(np.nan_to_num(read_means(technology, path)))
    return np.where(rounded > 0, rounded, 1.0)


def _half_up(values: np.ndarray) -> np.ndarray:
    return np.floor(values + 0.5)


def _rows_of_csv(path: Path, *needed: str) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            absent = [name for name in needed if name not in (reader.fieldnames or [])]
            if absent:
                found = ", ".join(reader.fieldnames or []) or "none"
                msg = f"{path} lacks the column {absent[0]!r}; it has {found}"
                raise VocabularyError(msg)
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} is not a CSV table: {error}"
        raise VocabularyError(msg) from error


def _genes_of_csv(path: Path) -> list[str]:
    genes = []
    for index, row in enumerate(_rows_of_csv(path, "index", "token", "ensembl_id")):
        if (row["index"], row["token"]) != (str(index), str(index + FIRST_GENE)):
            msg = (
                f"{path}, row {index + 2}: index {row['index']!r} and token {row['token']!r}; "
                f"expected {index} and {index + FIRST_GENE}"
            )
            raise VocabularyError(msg)
        genes.append(row["ensembl_id"] or "")
    return genes


def _genes_of_h5ad(path: Path) -> list[str]:
    import h5py

    try:
        check_hdf5(path)
        with h5py.File(path) as file:
            var = file["var"]
            return list(var[var.attrs.get("_index", "_index")].asstr()[:])
    except Exception as error:  # whatever h5py raises on damage
        msg = f"{path} is not an .h5ad file with gene names: {error}"
        raise VocabularyError(msg) from error


def _existing(path: str | Path | None, name: str) -> Path:
    """The given file, or the repository's file `name` in the cache."""
    if path is None:
        return _fetch(name)
    path = Path(path)
    if not path.is_file():
        msg = (
            f"no vocabulary file at {path}; give the path of nicheformer_vocab_20310.csv, or none to fetch it"
        )
        raise VocabularyNotFoundError(msg)
    return path


def _fetch(name: str) -> Path:
    import platformdirs
    import pooch

    cache = Path(os.environ.get("PAST_CACHE") or platformdirs.user_cache_dir("past")) / "nicheformer"
    url = f"{_REPOSITORY}/{_FILES[name]}/data/model_means/{name}"
    try:
        # No hash of the file: what is read from it is checked by content, on every read.
        return Path(pooch.retrieve(url, known_hash=None, fname=name, path=cache, progressbar=False))
    except (OSError, ValueError) as error:
        msg = (
            f"could not fetch {name} of theislab/nicheformer ({type(error).__name__}); without a network, "
            f"give the path of nicheformer_vocab_20310.csv, or put the file at {cache / name}"
        )
        raise VocabularyNotFoundError(msg) from error
