"""The report on a table of pairs: all statistics, by group too, as values, files and a printed table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from past_core.atomic import replacing
from past_vihc.agreement.bootstrap import Statistics, clustered, statistics
from past_vihc.agreement.categories import H_SCORE, PERCENT, Categories, confusion, given_cutoffs
from past_vihc.agreement.read import AgreementTableError, PairTable
from past_vihc.agreement.statistics import MIN_PAIRS, Estimate

if TYPE_CHECKING:
    from rich.table import Table

Scale = Literal["auto", "hscore", "percent", "other"]
EVERYTHING = "all"
LABELS = {
    "pearson": "Pearson's r",
    "spearman": "Spearman's ρ",
    "concordance": "Concordance (Lin)",
    "icc": "ICC(2,1)",
    "bias": "Bias (y − x)",
    "lower_limit": "Lower limit of agreement",
    "upper_limit": "Upper limit of agreement",
    "slope": "Slope of difference on mean",
    "kappa_quadratic": "Kappa, quadratic weights",
    "kappa_linear": "Kappa, linear weights",
}


@dataclass(frozen=True)
class GroupReport:
    """Agreement within one group of rows.

    Attributes:
        name: of the group, or "all".
        n: pairs.
        statistics: by name; empty where there are fewer than three pairs.
        counts: `(K, K)` of categories, rows x; None without categories.
        why: why there are no statistics; None where there are.
    """

    name: str
    n: int
    statistics: Statistics
    counts: np.ndarray | None
    why: str | None = None


@dataclass(frozen=True)
class AgreementReport:
    """Agreement of the pairs of a table.

    Attributes:
        pairs: what was read.
        groups: the first is all rows together.
        categories: that kappa is of, or None.
        notes: what was decided, and why something is left out.
        settings: confidence, resamples, seed.
    """

    pairs: PairTable
    groups: list[GroupReport]
    categories: Categories | None
    notes: list[str]
    settings: dict[str, Any]


def agreement_report(
    pairs: PairTable,
    *,
    cutoffs: Sequence[float] | None = None,
    scale: Scale = "auto",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> AgreementReport:
    """Agreement over all rows and within each group; by a bootstrap where the table has clusters.

    Args:
        pairs: from `read_pairs`.
        cutoffs: of the categories for kappa; by default those of the scale.
        scale: `hscore` (0–50, 51–100, 101–200, 201–300), `percent` (positive from 1 %), `other` (no
            categories), or `auto`: percent where a column is named so, else hscore where all values lie in
            0 to 300.
        confidence: of all intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        AgreementTableError: fewer than three pairs.
        AgreementError: cut-offs that do not ascend, or fewer than three clusters.
    """
    if len(pairs.x) < MIN_PAIRS:
        left = f"; left out: {'; '.join(pairs.missing[:8])}" if pairs.missing else ""
        raise AgreementTableError(
            f"{pairs.path}: {len(pairs.x)} pairs of {pairs.x_name} and {pairs.y_name}; expected at least "
            f"{MIN_PAIRS}{left}"
        )
    categories, note = _categories(pairs, cutoffs, scale)
    notes = [*pairs.notes, note]
    chosen = {EVERYTHING: np.arange(len(pairs.x))}
    if pairs.group is not None:
        names = np.array(pairs.group, object)
        chosen |= {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(pairs.group)}
    groups = []
    for name, rows in chosen.items():
        x, y = pairs.x[rows], pairs.y[rows]
        if len(rows) < MIN_PAIRS:
            groups.append(
                GroupReport(name, len(rows), {}, None, f"{len(rows)} pairs, fewer than {MIN_PAIRS}")
            )
            continue
        counts = None if categories is None else confusion(x, y, categories)
        own = None if pairs.cluster is None else np.array(pairs.cluster)[rows]
        if own is not None and name != EVERYTHING and len(set(own)) < MIN_PAIRS:
            groups.append(GroupReport(name, len(rows), {}, None, f"{len(set(own))} clusters, fewer than 3"))
            continue
        found = (
            statistics(x, y, categories, confidence=confidence)
            if own is None
            else clustered(x, y, own, categories, confidence=confidence, resamples=resamples, seed=seed)
        )
        groups.append(GroupReport(name, len(rows), found, counts))
    settings = {"confidence": confidence}
    if pairs.cluster is not None:
        n = len(set(pairs.cluster))
        settings |= {"resamples": resamples, "seed": seed, "clusters": n}
        notes.append(f"intervals by a bootstrap of {n} clusters, {resamples:,} draws")
    return AgreementReport(pairs, groups, categories, notes, settings)


def report_values(report: AgreementReport) -> dict[str, Any]:
    """The report as plain values, for JSON: undefined numbers are null, with `why`."""
    categories = report.categories
    return {
        "table": report.pairs.path.name,
        "x": report.pairs.x_name,
        "y": report.pairs.y_name,
        "pairs": len(report.pairs.x),
        "missing": report.pairs.missing,
        "notes": report.notes,
        "settings": report.settings,
        "categories": None
        if categories is None
        else {
            "names": list(categories.names),
            "cutoffs": list(categories.cutoffs),
            "rule": "a value on a cut-off belongs above" if categories.above else "... belongs below",
            "source": categories.source,
        },
        "groups": [
            {
                "name": group.name,
                "pairs": group.n,
                "why": group.why,
                "statistics": {name: asdict(value) for name, value in group.statistics.items()},
                "counts": None if group.counts is None else group.counts.tolist(),
            }
            for group in report.groups
        ],
    }


def report_table(report: AgreementReport, group: GroupReport) -> "Table":
    """One group's statistics for a terminal."""
    from rich.table import Table
    from rich.text import Text

    level = f"{100 * report.settings['confidence']:g} %"
    what = "" if group.name == EVERYTHING else f"{group.name}: "
    title = f"{what}{report.pairs.y_name} (y) against {report.pairs.x_name} (x), {group.n} pairs"
    table = Table(title=Text(title), title_justify="left")
    for heading in ("", "estimate", f"{level} interval", "interval by"):
        table.add_column(heading, overflow="fold")
    if group.why is not None:
        table.add_row("not computed", "", "", Text(group.why))
    for name, estimate in group.statistics.items():
        table.add_row(
            LABELS[name], _value(estimate), _interval(estimate), Text(estimate.why or estimate.interval)
        )
    return table


def write_report(report: AgreementReport, folder: Path, *, dpi: int = 150) -> list[Path]:
    """Writes `scatter.png`, `bland_altman.png` and, last, `agreement.json`; each whole or not at all.

    Returns:
        the files.
    """
    from past_vihc.agreement.plots import agreement_scatter, bland_altman_plot

    pairs, overall = report.pairs, report.groups[0].statistics
    names = {"x_label": pairs.x_name, "y_label": pairs.y_name}
    scatter = agreement_scatter(
        pairs.x,
        pairs.y,
        r=overall["pearson"],
        ccc=overall["concordance"],
        group=pairs.group,
        hscore=report.categories is H_SCORE,
        **names,
    )
    difference = bland_altman_plot(
        pairs.x,
        pairs.y,
        bias=overall["bias"],
        lower=overall["lower_limit"],
        upper=overall["upper_limit"],
        group=pairs.group,
        **names,
    )
    files = []
    for name, figure in (("scatter.png", scatter), ("bland_altman.png", difference)):
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, dpi=dpi)
        files.append(folder / name)
    with replacing(folder / "agreement.json") as temporary:
        text = json.dumps(report_values(report), indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return [*files, folder / "agreement.json"]


def _categories(
    pairs: PairTable, cutoffs: Sequence[float] | None, scale: Scale
) -> tuple[Categories | None, str]:
    if cutoffs is not None:
        made = given_cutoffs(cutoffs)
        return made, f"categories by the given cut-offs: {', '.join(made.names)}"
    both = np.concatenate([pairs.x, pairs.y])
    why = ""
    if scale == "auto":
        named = [
            n for n in (pairs.x_name, pairs.y_name) if any(w in n.lower() for w in ("percent", "%", "pct"))
        ]
        within = bool(both.min() >= 0 and both.max() <= 300)
        scale = "percent" if named else "hscore" if within else "other"
        why = f" (a column is named {named[0]})" if named else " (all values lie in 0 to 300)"
        why = " (values lie outside 0 to 300)" if scale == "other" else why
    if scale == "percent":
        return PERCENT, f"categories of % positive{why}: positive from 1 %"
    if scale == "hscore":
        return H_SCORE, f"categories of the H-score{why}: {', '.join(H_SCORE.names)}"
    return None, f"no categories{why}, so no kappa; give --cutoffs"


def _value(estimate: Estimate) -> str:
    return "undefined" if estimate.value is None else f"{estimate.value:.3f}"


def _interval(estimate: Estimate) -> str:
    return "" if estimate.low is None else f"{estimate.low:.3f} to {estimate.high:.3f}"
