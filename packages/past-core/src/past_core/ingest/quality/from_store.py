"""Quality control as a store holds it: the cells, the tests that ran, and their numbers."""

import dataclasses
from typing import Any

import numpy as np

from past_core.ingest.quality.cells import REASONS, Cells, Quantity, Skipped, wanted_table_tests
from past_core.ingest.quality.options import QualityOptionError, QualityOptions
from past_core.ingest.store import SlideStore

SCORED = {
    "doublet": ("qc_doublet_score", "Scrublet's score"),
    "out_of_focus": ("qc_focus", "sharpness"),
    "no_haematoxylin": ("qc_nucleus_contrast", "haematoxylin of the nucleus over its surroundings (OD)"),
}
"""Tests whose numbers are kept in obs: column and label."""


def cells_of(store: SlideStore) -> Cells:
    """What quality control knows about the cells of a store, in its row order."""
    level = store.levels[0]
    return Cells(
        counts=np.asarray(store.counts.sum(axis=1), dtype=np.float64).ravel(),
        genes=np.diff(store.counts.indptr),
        panel=store.counts.shape[1],
        xy=store.centroids,
        size=(level.height, level.width),
        mpp=store.mpp,
        obs=store.obs,
    )


def options_of(store: SlideStore) -> QualityOptions:
    """The options that a store's cells were flagged with; `minimal` where it does not say.

    Raises:
        QualityOptionError: Those of another version that this one does not know.
    """
    stored: dict[str, Any] = store.manifest.get("qc", {}).get("options") or {}
    known = {item.name for item in dataclasses.fields(QualityOptions)}
    unknown = sorted(set(stored) - known)
    if unknown:
        raise QualityOptionError(
            f"{store.path}: its manifest has options of quality control that this past-core does not know "
            f"({', '.join(unknown)}); it was written by {store.manifest.get('software')}: use that "
            "version or a later one"
        )
    return QualityOptions(**stored)


def failed_by_reason(store: SlideStore) -> dict[str, np.ndarray]:
    """(N,) bool of each reason that a cell of the store has; known ones first, in their order."""
    reasons = store.obs["qc_reason"].astype("category")
    named = {category: set(str(category).split(";")) - {""} for category in reasons.cat.categories}
    found = set().union(*named.values()) if named else set()
    order = [*(name for name in REASONS if name in found), *sorted(found - set(REASONS))]
    codes = reasons.cat.codes.to_numpy()
    return {
        name: np.isin(codes, [code for code, words in enumerate(named.values()) if name in words])
        for name in order
    }


def quantities_of(store: SlideStore) -> list[Quantity]:
    """The tests that ran on a store, with what they measured; `failed` is as the store's flags say."""
    options, cells, failed = options_of(store), cells_of(store), failed_by_reason(store)
    tests = store.manifest.get("qc", {}).get("tests") or {}
    nobody = np.zeros(len(cells), bool)
    found = []
    for reason, test in wanted_table_tests(options).items():
        try:
            quantity = test(cells, options)
        except Skipped:
            continue
        found.append(dataclasses.replace(quantity, failed=failed.get(reason, nobody)))
    for reason in [name for name in tests if name not in wanted_table_tests(options)]:
        column, label = SCORED.get(reason, (None, reason))
        measured = store.obs[column].to_numpy(np.float64) if column in store.obs else None
        low, high = (tests[reason].get(side) for side in ("low", "high"))
        found.append(Quantity(reason, label, measured, failed.get(reason, nobody), low, high, column))
    return sorted(found, key=lambda quantity: REASONS.index(quantity.reason))
