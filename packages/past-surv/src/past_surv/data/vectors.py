"""One vector a patient by PAST, the extra group of PAST-multi: made from a source that is named, and kept.

The paper (Methods, "PAST-multi") adds the patient-pooled embedding of PAST's cell encoder as group N + 1;
where the cells' expression comes from on a cohort of slides it leaves open, so every table names its source.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from past_surv.data.vector_files import (
    Source,
    VectorError,
    VectorNotFoundError,
    check_source,
    read_vectors,
    write_vectors,
)
from past_surv.data.vector_sources import (
    CELLS,
    LEAST,
    Scale,
    bulk_vectors,
    expression_vectors,
    joint_vectors,
)

if TYPE_CHECKING:
    import pandas as pd

    from past_core.frozen import Space
    from past_surv.data.bags import BagFolder
    from past_surv.data.cohort import Cohort

__all__ = [
    "Scale",
    "Source",
    "VectorError",
    "VectorNotFoundError",
    "bulk_vectors",
    "expression_vectors",
    "joint_vectors",
    "patient_vectors",
    "read_vectors",
    "write_vectors",
]


def patient_vectors(
    source: Source,
    cohort: "Cohort",
    *,
    predictions: str | Path | Mapping[str, Path] | None = None,
    bags: "str | Path | BagFolder | None" = None,
    encoder: str | Path = "demo",
    space: "Space" = "features",
    scale: Scale = "log2p1",
    ids: Mapping[str, str] | None = None,
    cells: int | None = CELLS,
    least: float = LEAST,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> "pd.DataFrame":
    """One vector a patient.

    Args:
        source: where they come from, see `vector_files.Source`.
        cohort: the patients.
        predictions: for `expression`: what `past predict` wrote, see `find_predictions`.
        bags: for `joint`: a folder of bags in the joint space, whose encoder is theirs.
        encoder: for `expression` and `bulk`: a checkpoint of PAST, by path or name.
        space: of the cell encoder: its features (512 wide in the paper's size), or the joint space.
        scale: for `bulk`: of the table's RNA.
        ids: for `bulk`: Ensembl id by symbol; those of the human genes without.
        cells: for `expression`: most cells of a patient; None takes all.
        least: for `expression`: predicted counts below are none.
        seed: of the draw of cells.
        device: where the encoder runs.
        progress: called with patients done, and of all.

    Returns:
        `(cases, D)` float32 by `case_id`; how it was made, cells pooled and who is absent in `attrs["past"]`.

    Raises:
        VectorError: an unknown source, or one whose input is not given, and see the three functions.
        EncoderError, EncoderNotFoundError, CheckpointError: see `load_cell_encoder`.
    """
    check_source(source)
    if source == "joint":
        if bags is None:
            raise VectorError("source 'joint' reads bags of patches in the joint space; give bags")
        from past_surv.data.bags import BagFolder

        folder = bags if isinstance(bags, BagFolder) else BagFolder(bags)
        return joint_vectors(cohort, folder, progress=progress)
    if source == "expression" and predictions is None:
        raise VectorError("source 'expression' reads what `past predict` wrote; give predictions")
    from past_core.encoders import load_past, resolve_device
    from past_core.frozen_cell import FrozenCellEncoder

    target = resolve_device(device)
    checkpoint = load_past(encoder)
    frozen = FrozenCellEncoder(Path(encoder).name, checkpoint, space, demo=checkpoint.demo).to(target)
    if source == "bulk":
        return bulk_vectors(cohort, frozen, means=checkpoint.gene_means, scale=scale, ids=ids)
    assert predictions is not None  # as 'expression' needs, see above
    return expression_vectors(
        cohort, predictions, frozen, cells=cells, least=least, seed=seed, progress=progress
    )
