"""A whole leave-one-out table from statistics: every group scored by a model of all others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from past_genex.metrics.pairs import PairMoments
from past_genex.statistics.model import LinearModel, score
from past_genex.statistics.moments import Moments, leave_one_out_merges, merge_moments
from past_genex.statistics.ridge import (
    assemble,
    fit_ridge,
    genes_of,
    require_strength,
    require_variation,
    solve,
)
from past_genex.statistics.units import RidgeError, Unit, as_units, patterns


@dataclass(frozen=True)
class LeftOut:
    """One line of the table.

    Attributes:
        group: what was left out.
        units: numbers of its U units.
        model: fitted on all other groups; only of genes that another group measures.
        scores: `(U, G)` over all genes; n is 0 where a unit does not measure a gene or the model lacks it.
    """

    group: str
    units: tuple[int, ...]
    model: LinearModel
    scores: PairMoments


def leave_one_out(
    units: Iterable[Unit | tuple[Moments, Sequence[str]]],
    genes: Sequence[str] | pd.Index | None = None,
    *,
    alpha: float | None = None,
    relative_alpha: float | None = None,
    intercept: bool = True,
) -> list[LeftOut]:
    """Leaves every group (slide or patient) out in turn, without touching pixels, features or expression.

    With a fixed strength the statistics of "all but one" come from `leave_one_out_merges`, three merges a
    group. Without one, it is chosen for every gene inside each fold's training groups.

    Args:
        units: slides with their genes; those of one `group` are left out together.
        genes: of the table; all that a unit measures by default.
        alpha: ridge strength, or
        relative_alpha: the strength over the mean eigenvalue of each fold's training cells.
        intercept: whether the models have one.

    Returns:
        One entry a group, in order of first appearance.

    Raises:
        RidgeError: fewer than two groups; a group that shares no gene with the others; see `fit_ridge`.
        SelectionError: see `fit_ridge`.
    """
    require_strength(alpha, relative_alpha)
    units = as_units(units)
    genes = genes_of(units) if genes is None else pd.Index(genes)
    label = [unit.group if unit.group is not None else f"unit {u + 1}" for u, unit in enumerate(units)]
    groups = {name: [u for u, other in enumerate(label) if other == name] for name in dict.fromkeys(label)}
    if len(groups) < 2:
        raise RidgeError(
            f"all {len(units)} units belong to {next(iter(groups))!r}; leaving one out needs two"
        )
    if alpha is None and relative_alpha is None:
        models = {name: _chosen(units, genes, members, intercept) for name, members in groups.items()}
    else:
        models = _fixed(units, genes, groups, alpha, relative_alpha, intercept)
    return [
        LeftOut(name, tuple(members), models[name], score(models[name], [units[u] for u in members], genes))
        for name, members in groups.items()
    ]


def _chosen(units: list[Unit], genes: pd.Index, left_out: list[int], intercept: bool) -> LinearModel:
    train = [unit for u, unit in enumerate(units) if u not in left_out]
    known = pd.Index(np.unique(np.concatenate([u.genes for u in train if u.moments.n] or [[]])))
    return fit_ridge(train, _shared(units, genes, genes.isin(known), left_out), intercept=intercept)


def _fixed(
    units: list[Unit],
    genes: pd.Index,
    groups: dict[str, list[int]],
    alpha: float | None,
    relative_alpha: float | None,
    intercept: bool,
) -> dict[str, LinearModel]:
    group_of = {u: name for name, members in groups.items() for u in members}
    solved: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in groups}
    for kind in patterns(units, genes):
        members: dict[str, list[int]] = {}
        for place, u in enumerate(kind.units):
            members.setdefault(group_of[u], []).append(place)
        parts = {name: merge_moments([kind.parts[i] for i in places]) for name, places in members.items()}
        options: dict[str, Any] = {"alpha": alpha, "relative_alpha": relative_alpha, "intercept": intercept}
        names = [units[u].name for u in kind.units]
        if len(parts) > 1:
            for name, train in zip(parts, leave_one_out_merges(list(parts.values())), strict=True):
                require_variation(train, names)
                solved[name].append((kind.columns, *solve(train, **options)))
        if outside := [name for name in groups if name not in parts]:
            # These groups measure none of the genes: their models are those of all the others.
            whole = merge_moments(list(parts.values()))
            require_variation(whole, names)
            same = solve(whole, **options)
            for name in outside:
                solved[name].append((kind.columns, *same))
    encoder, models = next((u.encoder for u in units if u.encoder), ""), {}
    for name, pieces in solved.items():
        fitted = np.zeros(len(genes), bool)
        for columns, *_ in pieces:
            fitted[columns] = True
        _shared(units, genes, fitted, groups[name])
        position = np.cumsum(fitted) - 1
        models[name] = assemble([(position[c], *rest) for c, *rest in pieces], genes[fitted], encoder=encoder)
    return models


def _shared(units: list[Unit], genes: pd.Index, fitted: np.ndarray, left_out: list[int]) -> pd.Index:
    """The genes that can be fitted, if the units left out measure any of them."""
    shared = genes[fitted]
    if not any(units[u].genes.isin(shared).any() for u in left_out):
        raise RidgeError(
            f"{', '.join(units[u].name for u in left_out[:5])} shares none of the {len(genes)} genes with "
            "the other slides; leave it out of the table"
        )
    return shared
