"""The count matrix of a Xenium bundle in the form that Xenium Explorer reads: cell_feature_matrix.zarr.zip.

The group `cell_features` holds the counts by feature: `indptr` (F + 1) walks the features, `indices` are
cells. Its attributes name the features: `feature_keys` (symbols), `feature_ids`, `feature_types`. Sums over
features, which are there for display, are of the types `aggregate_...` and left out.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from past_core.ingest.xenium_files import BundleError
from past_core.ingest.xenium_masks import cell_id_strings
from past_core.ingest.xenium_matrix import MAX_FEATURES, SCALING, Matrix, check_entries, same_number
from past_core.ingest.xenium_zarr import ZarrZip, open_zarr

logger = logging.getLogger(__name__)

GROUP = "cell_features"
NAMES = ("feature_ids", "feature_keys", "feature_types")
KINDS = {
    "gene": "Gene Expression",
    "gene_expression": "Gene Expression",
    "protein": "Protein Expression",
    "protein_expression": "Protein Expression",
    "blank_codeword": "Unassigned Codeword",
}
"""Types as the other forms of the matrix spell them; of what is not here, each word with a capital."""
AGGREGATE = "aggregate"
MAX_RATIO = 2**12
"""No byte of packed counts unpacks to more, in arrays of more than `ANY` bytes."""
ANY = 2**28


def read_zarr_matrix(path: Path, n_cells: int) -> Matrix:
    """Reads the matrix; sizes are checked before anything of that size is read.

    Args:
        path: cell_feature_matrix.zarr.zip.
        n_cells: Number of cells that the table of cells has.

    Raises:
        BundleNotFoundError: It is not there.
        BundleError: Truncated, parts missing or of sizes that do not fit, or indices out of range.
    """
    with open_zarr(path, "the count matrix", ZarrZip) as archive:
        if GROUP not in archive:
            raise BundleError(f"{path} has no group {GROUP!r}: expected the count matrix")
        attributes = archive.attributes(GROUP)
        features = _features(attributes, path)
        n_features = len(features)
        for name, known in (("number_cells", n_cells), ("number_features", n_features)):
            if attributes.get(name, known) != known:
                raise BundleError(f"{path}: {name} is {attributes[name]!r}, expected {known}")
        barcodes = _barcodes(archive, n_cells)
        indptr = archive.values(f"{GROUP}/indptr", ndim=1, rows=n_features + 1)
        most = n_cells * n_features
        data, indices = (_entries(archive, f"{GROUP}/{name}", most) for name in ("data", "indices"))
    if indices.dtype.kind not in "ui" or indptr.dtype.kind not in "ui":
        raise BundleError(f"{path}: indices are {indices.dtype} and indptr {indptr.dtype}, expected integers")
    check_entries(path, GROUP, data, indices, indptr, n_cells)
    parts = (data, indices.astype(np.int32), indptr.astype(np.int64))
    counts = csr_matrix(parts, shape=(n_features, n_cells))
    kept = np.flatnonzero(~features["feature_type"].str.startswith(AGGREGATE.capitalize()))
    return Matrix(
        counts[kept].T.tocsr(), features.iloc[kept].reset_index(drop=True), barcodes, _scale(attributes, path)
    )


def _features(attributes: dict[str, Any], path: Path) -> pd.DataFrame:
    """(F rows) id, name, feature_type."""
    lists: dict[str, Any] = {name: attributes.get(name) for name in NAMES}
    for name, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise BundleError(f"{path}: attribute {name} of {GROUP} is no list of names")
    ids, keys, kinds = lists.values()
    if not len(ids) == len(keys) == len(kinds) <= MAX_FEATURES or not ids:
        raise BundleError(
            f"{path}: {len(ids)} feature_ids, {len(keys)} feature_keys and {len(kinds)} feature_types; "
            f"expected as many of each, at most {MAX_FEATURES}"
        )
    return pd.DataFrame(
        {"id": ids, "name": keys, "feature_type": [_kind(kind) for kind in kinds]}, dtype=object
    )


def _kind(text: str) -> str:
    key = "_".join(text.lower().split())
    return KINDS.get(key) or " ".join(word.capitalize() for word in key.split("_"))


def _barcodes(archive: ZarrZip, n_cells: int) -> np.ndarray:
    """(N,) ids: of two parts from 1.3 on, whole numbers before."""
    name = f"{GROUP}/cell_id"
    ndim = len(archive.described(name)["shape"])
    if ndim not in (1, 2):
        raise BundleError(f"{archive.path}: array {name!r} has {ndim} dimensions, expected prefix and suffix")
    ids = archive.array(name, ndim=ndim)
    same_number(archive.path, int(ids.shape[0]), n_cells)
    if ids.dtype.kind not in "ui" or (ndim == 2 and ids.shape[1] not in (1, 2)):
        raise BundleError(
            f"{archive.path}: array {name!r} is {ids.dtype} {ids.shape}, expected whole numbers"
        )
    values = archive.values(name, ndim=ndim)
    if ndim == 2 and values.shape[1] == 2:
        return cell_id_strings(values)
    return values.ravel().astype(str).astype(object)


def _entries(archive: ZarrZip, name: str, most: int) -> np.ndarray:
    """An array with an element for each entry, every chunk of which is in the zip."""
    array = archive.array(name, ndim=1)
    chunks = -(-array.shape[0] // array.chunks[0])
    stored, packed = archive.stored(name)
    if array.shape[0] > most or stored != chunks or array.nbytes > max(ANY, packed * MAX_RATIO):
        raise BundleError(
            f"{archive.path}: array {name!r} claims {array.shape[0]} entries in {chunks} chunks, of which "
            f"{stored} with {packed} bytes are there; at most {most} can be"
        )
    return archive.values(name, ndim=1, largest=array.nbytes)


def _scale(attributes: dict[str, Any], path: Path) -> float:
    """By what intensities of proteins were multiplied; 1 where nothing is said."""
    value = attributes.get(SCALING, 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise BundleError(f"{path}: attribute {SCALING} is {value!r}, expected a positive number")
    return float(value)
