"""Batches of patients: ragged bags of patches beside groups of genes, padded to the longest with a mask."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from past_core.errors import PastError


class BatchError(PastError, ValueError):
    """Patients that do not fit into one batch."""


class PatientInput(NamedTuple):
    """What a model gets of one patient.

    Attributes:
        patches: `(M, D)` float16 or float32, all slides one after another, M at least 1; one row of zeros
            without a slide.
        omics: G vectors `(g,)` float32, scaled; zeros where missing.
        missing: `(G,)` bool, True for a group without any value.
        interval: of the time.
        censored: whether the patient was alive at `time`.
        time: of death or of censoring.
        row: of the cohort.
        no_slide: whether there is no slide.
    """

    patches: np.ndarray
    omics: tuple[np.ndarray, ...]
    missing: np.ndarray
    interval: int
    censored: bool
    time: float
    row: int
    no_slide: bool


class SurvivalBatch(NamedTuple):
    """B patients.

    Attributes:
        patches: `(B, M, D)` float32, zeros where padded.
        padding: `(B, M)` bool, True where there is no patch. The one row of zeros of a patient without a
            slide counts as a patch, so that attention has something to attend to; see `no_slide`.
        omics: G tensors `(B, g)` float32.
        missing: `(B, G)` bool, True where a patient lacks a group.
        interval: `(B,)` int64.
        censored: `(B,)` float32, 1 where censored.
        time: `(B,)` float32.
        event: `(B,)` bool, True where death was seen.
        row: `(B,)` int64, row of the cohort.
        no_slide: `(B,)` bool, True where a patient has no slide; the patches then mean nothing.
    """

    patches: Tensor
    padding: Tensor
    omics: tuple[Tensor, ...]
    missing: Tensor
    interval: Tensor
    censored: Tensor
    time: Tensor
    event: Tensor
    row: Tensor
    no_slide: Tensor


def collate(patients: Sequence[PatientInput]) -> SurvivalBatch:
    """Joins patients; bags are padded to the longest.

    Raises:
        BatchError: no patients, or patients of different widths of patches or groups.
    """
    if not patients:
        raise BatchError("a batch of no patients; expected at least one")
    _check(patients)
    lengths = torch.tensor([len(patient.patches) for patient in patients])
    longest = int(lengths.max())
    patches = torch.empty(len(patients), longest, patients[0].patches.shape[1])
    for number, patient in enumerate(patients):
        # Copied and widened in one step: a float16 bag of 100,000 patches is not held a second time.
        values = patches[number].numpy()
        values[: len(patient.patches)] = patient.patches
        values[len(patient.patches) :] = 0
    censored = torch.tensor([patient.censored for patient in patients])
    return SurvivalBatch(
        patches=patches,
        padding=torch.arange(longest)[None] >= lengths[:, None],
        omics=tuple(
            torch.from_numpy(np.stack(values).astype(np.float32))
            for values in zip(*(patient.omics for patient in patients), strict=True)
        ),
        missing=torch.from_numpy(np.stack([np.asarray(patient.missing, bool) for patient in patients])),
        interval=torch.tensor([patient.interval for patient in patients], dtype=torch.int64),
        censored=censored.float(),
        time=torch.tensor([patient.time for patient in patients], dtype=torch.float32),
        event=~censored,
        row=torch.tensor([patient.row for patient in patients], dtype=torch.int64),
        no_slide=torch.tensor([patient.no_slide for patient in patients]),
    )


def _check(patients: Sequence[PatientInput]) -> None:
    def shape(patient: PatientInput) -> tuple:
        return patient.patches.shape[1:], tuple(len(values) for values in patient.omics)

    for patient in patients:
        if not len(patient.patches):
            raise BatchError(
                f"the patient of row {patient.row} has no patch; leave it out, or mark it no_slide"
            )
        if shape(patient) != shape(patients[0]):
            (dim,), sizes = shape(patient)
            (first,), others = shape(patients[0])
            raise BatchError(
                f"the patient of row {patient.row} has {dim} wide patches and groups of {list(sizes)} genes, "
                f"that of row {patients[0].row} {first} and {list(others)}; one batch is of one cohort"
            )
