"""Tables of one vector a patient: put together with what made them, written whole, read back."""

import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from past_core.atomic import replacing
from past_core.errors import PastError

logger = logging.getLogger(__name__)

Source = Literal["expression", "joint", "bulk"]
"""`expression`: expression predicted from the slides, through the cell encoder. `joint`: the slides through
the image encoder, projected into the space shared with cells. `bulk`: the patient's RNA through the cell
encoder."""

FORMAT = 1
MANIFEST = "past"
"""Key of the manifest in the table's `attrs` and, as JSON, in the file's metadata."""
SUFFIX = ".parquet"


class VectorError(PastError, ValueError):
    """Vectors of patients that cannot be made, written or read."""


class VectorNotFoundError(PastError, FileNotFoundError):
    """There is no table of vectors at that path."""


def check_source(source: str) -> None:
    """Refuses an unknown source."""
    if source not in get_args(Source):
        raise VectorError(f"source {source!r}; expected {', '.join(get_args(Source))}")


def patient_table(
    vectors: Mapping[str, np.ndarray], counts: Mapping[str, int], manifest: Mapping[str, Any]
) -> pd.DataFrame:
    """Puts vectors together.

    Args:
        vectors: `(D,)` by case id.
        counts: what each is a mean of: cells, tiles, or 1.
        manifest: `source`, `encoder`, `fingerprint`, and what else there is to say.

    Returns:
        `(cases, D)` float32 by `case_id`, columns `v0`, `v1`, …; the manifest in `attrs["past"]`.

    Raises:
        VectorError: no vector at all.
    """
    if not vectors:
        raise VectorError(f"no patient has a vector from the source {manifest['source']!r}")
    table = pd.DataFrame(
        np.stack(list(vectors.values())).astype(np.float32), pd.Index(vectors, name="case_id")
    )
    table.columns = [f"v{k}" for k in range(table.shape[1])]
    table.attrs[MANIFEST] = {
        **manifest,
        "kind": "patient vectors",
        "format": FORMAT,
        "software": f"past-surv {version('past-surv')}",
        "dim": table.shape[1],
        "pooled": {case: int(counts[case]) for case in vectors},
    }
    return table


def write_vectors(table: pd.DataFrame, path: str | Path) -> Path:
    """Writes a table of `patient_vectors` as Parquet, whole or not at all; one that is there is replaced.

    Raises:
        VectorError: another suffix, or a table without a manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if path.suffix != SUFFIX:
        raise VectorError(f"{path}: vectors are written as {SUFFIX}; give the output that suffix")
    if MANIFEST not in table.attrs:
        raise VectorError(f"{path}: the table does not say where it comes from; make it by `patient_vectors`")
    made = pa.Table.from_pandas(table)
    meta = {**(made.schema.metadata or {}), MANIFEST.encode(): json.dumps(table.attrs[MANIFEST]).encode()}
    with replacing(path) as temporary:
        pq.write_table(made.replace_schema_metadata(meta), temporary)
    return path


def read_vectors(path: str | Path) -> pd.DataFrame:
    """Reads a table of vectors, and its manifest into `attrs["past"]`.

    Raises:
        VectorNotFoundError: nothing is there.
        VectorError: not such a table, damaged, a case twice, or values that are not finite.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise VectorNotFoundError(
            f"{path}: no such table of vectors; `past vectors COHORT -o {path}` makes one"
        )
    try:
        found = pq.read_table(path)
        manifest = json.loads((found.schema.metadata or {})[MANIFEST.encode()])
        table = found.to_pandas(ignore_metadata=False)
        kind, form = manifest["kind"], manifest["format"]
    except Exception as error:  # whatever pyarrow and json raise on damage
        raise VectorError(
            f"{path}: cannot be read as vectors of patients ({error}); make it again with `past vectors`"
        ) from error
    if kind != "patient vectors" or form != FORMAT:
        raise VectorError(f"{path}: {kind} of format {form}; expected patient vectors of format {FORMAT}")
    if table.index.name != "case_id" or table.index.duplicated().any():
        raise VectorError(f"{path}: no case_id, or one that comes twice; expected one row a patient")
    values = table.to_numpy()
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise VectorError(f"{path}: vectors that are not finite numbers; make it again with `past vectors`")
    table.attrs = {MANIFEST: manifest}
    return table
