"""Which cells train and which test: folds over slides, the settings of the paper, and the leakage check."""

from past_genex.data.fold import Fold, Split
from past_genex.data.leakage import FoldLeakage, Leakage
from past_genex.data.settings import (
    SplitError,
    cross_cancer,
    inter_patient,
    intra_patient,
    leave_patients_out,
    random_cells,
)

__all__ = [
    "Fold",
    "FoldLeakage",
    "Leakage",
    "Split",
    "SplitError",
    "cross_cancer",
    "inter_patient",
    "intra_patient",
    "leave_patients_out",
    "random_cells",
]
