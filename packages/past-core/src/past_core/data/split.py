"""Which slides and cells train and which are held out: by patient, else by region."""

import logging
from collections.abc import Sequence

import numpy as np

from past_core.errors import PastError
from past_core.ingest.store import SlideStore

logger = logging.getLogger(__name__)


class SplitError(PastError, ValueError):
    """The wanted split leaves nothing to train on or names what is not there."""


def held_out_patients(
    stores: Sequence[SlideStore], *, patients: Sequence[str] | None = None, fraction: float = 0.25
) -> set[str]:
    """The patients to validate on: those named, else the last ones in order of name.

    Args:
        stores: all slides.
        patients: names of patients.
        fraction: share of the patients to hold out where none are named, at least one of two or more.

    Returns:
        Patients to hold out; empty where there is only one patient.

    Raises:
        SplitError: an unknown patient, every patient held out, or a fraction outside 0..1.
    """
    known = sorted({store.patient for store in stores})
    if patients is not None:
        unknown = sorted(set(patients) - set(known))
        if unknown:
            raise SplitError(
                f"data.val_patients names {', '.join(unknown)}; the slides' patients are {', '.join(known)}"
            )
        chosen = set(patients)
    else:
        if not 0 <= fraction < 1:
            raise SplitError(
                f"data.val_fraction is {fraction}; expected a share of the patients from 0 to below 1"
            )
        count = min(max(1, round(len(known) * fraction)), len(known) - 1) if fraction else 0
        chosen = set(known[len(known) - count :])
    if chosen == set(known):
        raise SplitError(
            f"all patients ({', '.join(known)}) would be held out; leave at least one to train on"
        )
    return chosen


def held_out_strip(store: SlideStore, *, fraction: float, buffer_um: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits one slide in two along its longer side: `(N,)` bool of training and of validation rows.

    Cells nearer than `buffer_um` to the border belong to neither, so that no validation pixel was trained on.
    """
    points = store.centroids * store.mpp
    used = store.passed
    axis = int(np.argmax(np.ptp(points[used], axis=0)))
    border = np.quantile(points[used, axis], 1 - fraction)
    return (
        used & (points[:, axis] < border - buffer_um / 2),
        used & (points[:, axis] >= border + buffer_um / 2),
    )
