"""Integrated gradients over a cohort: tables by patient, by gene and by group."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from past_core.errors import PastError
from past_surv.data.bags import BagFolder
from past_surv.data.cohort import Cohort
from past_surv.data.patient_slides import check_encoder
from past_surv.models.attribution import STEPS, TOLERANCE, Attribution, attribute_genes
from past_surv.models.files import LoadedModel
from past_surv.models.inputs import GeneInputs, gene_inputs

if TYPE_CHECKING:
    from past_surv.data.bags import Bag

logger = logging.getLogger(__name__)


class AttributionError(PastError, ValueError):
    """A cohort or network of which nothing can be attributed to genes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CohortAttribution:
    """Attributions of P patients.

    Attributes:
        patients: a row a patient: `case_id`, `risk`, `baseline` (the average training patient's, with the
            same slides), `gap`, `steps`, `slides`, and the sum over each group, empty where it is missing.
        attributions: a row a patient, a column `GROUP/COLUMN` a gene; empty where the group is missing.
        genes: by `mean_abs`, largest first: `group`, `gene`, `patients` that have the group, `mean_abs`,
            `mean`, `share` of the sum of `mean_abs` over all genes, and `direction`, the correlation of the
            gene's value with its attribution: above 0, more of it raises the risk.
        groups: `group`, `genes`, `patients`, `mean_abs` and `mean` of the groups' sums, `share` of all
            genes' `mean_abs`.
        without: cases that have no group, and are left out.
        slideless: cases without a bag.
        inexact: cases whose gap is above the tolerance.
    """

    patients: pd.DataFrame
    attributions: pd.DataFrame
    genes: pd.DataFrame
    groups: pd.DataFrame
    without: tuple[str, ...]
    slideless: tuple[str, ...]
    inexact: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Writes patients.csv, attributions.csv, genes.csv and groups.csv into a folder that is there."""
        for name in ("patients", "attributions", "genes", "groups"):
            getattr(self, name).to_csv(folder / f"{name}.csv", index=False, float_format="%.7g")


def attribute_cohort(
    loaded: LoadedModel,
    cohort: Cohort,
    rows: np.ndarray,
    *,
    bags: BagFolder | None = None,
    vectors: pd.DataFrame | None = None,
    max_patches: int | None = None,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> CohortAttribution:
    """Attributes the risk of each patient to its genes; see `attribute_genes`.

    Args:
        loaded: MCAT or the SNN.
        cohort: with the genes.
        rows: of the cohort, which patients.
        bags: of the slides, for MCAT.
        vectors: one a patient, for PAST-multi; its entries are attributed to like genes.
        max_patches: most patches of a patient, spread evenly over its slides; all without.
        steps: see `integrated_gradients`.
        tolerance: likewise.
        device: where it runs.
        progress: called with patients done, and in all.

    Raises:
        AttributionError: no patient with a group, MCAT without bags, or a network without genes.
        ModelInputError, BagError: see `gene_inputs`, `check_encoder`.
    """
    kind = loaded.manifest["kind"]
    if kind not in ("mcat", "snn"):
        raise AttributionError(
            f"a network of kind {kind} reads no genes; expected mcat or snn. For its slides: `past heatmap`"
        )
    if kind == "mcat" and bags is None:
        raise AttributionError("MCAT reads slides beside genes; give the folder of their bags with --bags")
    genes = gene_inputs(loaded.manifest, cohort, rows, vectors=vectors)
    made: dict[int, tuple[Attribution, int]] = {}
    without, slideless = [], []
    for number, row in enumerate(rows):
        case = str(cohort.cases[row])
        if genes.missing[number].all():
            without.append(case)
        else:
            patches, slides = None, 0
            if bags is not None and kind == "mcat":
                own = _bags(bags, cohort.slides[case], loaded)
                slides = len(own)
                patches = _patches(own, max_patches) if own else None
                slideless += [] if own else [case]
            made[number] = (
                attribute_genes(
                    loaded, genes, number, patches, steps=steps, tolerance=tolerance, device=device
                ),
                slides,
            )
        if progress is not None:
            progress(number + 1, len(rows))
    if not made:
        raise AttributionError(
            f"{cohort.name}: none of {len(rows)} patients has a value of a group that the network reads"
        )
    return _tables(genes, cohort.cases[rows], made, tuple(without), tuple(slideless), tolerance)


def _bags(bags: BagFolder, slides: tuple[str, ...], loaded: LoadedModel) -> list["Bag"]:
    found = {bag.path: bag for slide in slides if (bag := bags.find(slide)) is not None}
    for bag in found.values():
        check_encoder(bag, loaded.manifest)
    return list(found.values())


def _patches(bags: list["Bag"], most: int | None) -> np.ndarray:
    patches = np.concatenate([bag.features() for bag in bags])
    if most is not None and len(patches) > most:
        patches = patches[(np.arange(most) * len(patches)) // most]
    return patches


def _tables(
    genes: GeneInputs,
    cases: pd.Index,
    made: dict[int, tuple[Attribution, int]],
    without: tuple[str, ...],
    slideless: tuple[str, ...],
    tolerance: float,
) -> CohortAttribution:
    rows = list(made)
    found = [made[row][0] for row in rows]
    there = ~genes.missing[rows].numpy()
    patients = pd.DataFrame(
        {
            "case_id": cases[rows],
            "risk": [a.risk for a in found],
            "baseline": [a.baseline for a in found],
            "gap": [a.gap for a in found],
            "steps": [a.steps for a in found],
            "slides": [made[row][1] for row in rows],
        }
    )
    parts: list[pd.DataFrame] = []
    by_gene: list[pd.DataFrame] = []
    by_group = []
    for number, (name, columns) in enumerate(zip(genes.names, genes.columns, strict=True)):
        values = np.stack([a.parts[number].numpy() for a in found])
        values[~there[:, number]] = np.nan
        has = there[:, number]
        inputs = genes.omics[number][rows].numpy()[has]
        own = values[has]
        patients[name] = np.where(has, values.sum(axis=1), np.nan)
        parts.append(pd.DataFrame(values, columns=[f"{name}/{column}" for column in columns]))
        totals = own.sum(axis=1)
        mean_abs = np.abs(own).mean(axis=0) if len(own) else np.full(len(columns), np.nan)
        by_gene.append(
            pd.DataFrame(
                {
                    "group": name,
                    "gene": columns,
                    "patients": int(has.sum()),
                    "mean_abs": mean_abs,
                    "mean": own.mean(axis=0) if len(own) else np.nan,
                    "direction": _correlations(inputs, own),
                }
            )
        )
        by_group.append(
            {
                "group": name,
                "genes": len(columns),
                "patients": int(has.sum()),
                "mean_abs": np.abs(totals).mean() if len(own) else np.nan,
                "mean": totals.mean() if len(own) else np.nan,
                "share": np.nansum(mean_abs),
            }
        )
    table, groups = pd.concat(by_gene, ignore_index=True), pd.DataFrame(by_group)
    whole = float(table["mean_abs"].sum())
    table.insert(5, "share", table["mean_abs"] / whole if whole else np.nan)
    groups["share"] = groups["share"] / whole if whole else np.nan
    difference = np.abs(patients["risk"] - patients["baseline"])
    # As in `integrated_gradients`: below single precision's rounding there is nothing to be exact about.
    inexact = patients["gap"].abs() > np.maximum(tolerance * difference, 1e-5)
    return CohortAttribution(
        patients=patients,
        attributions=pd.concat([patients[["case_id"]], *parts], axis=1),
        genes=table.sort_values("mean_abs", ascending=False, kind="stable", ignore_index=True),
        groups=groups,
        without=without,
        slideless=slideless,
        inexact=tuple(patients.loc[inexact, "case_id"].astype(str)),
    )


def _correlations(values: np.ndarray, attributions: np.ndarray) -> np.ndarray:
    """`(g,)` Pearson's r of each gene's value and attribution; NaN of a constant, or fewer than three."""
    if len(values) < 3:
        return np.full(values.shape[1], np.nan)
    x, y = (v - v.mean(axis=0) for v in (values.astype(np.float64), attributions))
    # By their own largest, so that tiny attributions do not vanish when they are squared.
    size = [np.abs(v).max(axis=0) for v in (x, y)]
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = x / size[0], y / size[1]
        return (x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
