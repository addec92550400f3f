"""Whether two systems differ on the same tiles: signed-rank tests, and bootstrap intervals over cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.holm import holm

MIN_CASES = 6
"""Below this many cases tiles within cases are drawn: the interval then says nothing of other cases."""


class CompareError(PastError, ValueError):
    """Tables that cannot be compared."""


@dataclass(frozen=True)
class StainComparison:
    """All pairs of systems.

    Attributes:
        table: one row a pair and metric: metric, first, second, difference (mean over cases of the mean over
            tiles, first − second), low, high, resampled ("cases" or "tiles within cases"), cases, p_tiles,
            n_tiles, p_cases, n_cases (Wilcoxon; n counts the differences that are not 0), undefined (tiles
            left out), p_tiles_holm, p_cases_holm.
        cases: metric, first, second, case, value_first, value_second, difference.
    """

    table: pd.DataFrame
    cases: pd.DataFrame


def compare_stains(
    tables: Mapping[str, pd.DataFrame],
    *,
    metrics: Sequence[str] = ("psnr", "ssim", "dab_r"),
    reference: str | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> StainComparison:
    """Compares systems that stained the same tiles, pair by pair.

    Tiles of one case are not independent, so that the test over tiles is too sure of itself: the interval
    over cases is the one to trust, and with few cases the differences of every case. Over n cases p cannot
    be below 2 / 2^n. Holm's correction is over all rows of the table, for each of the two tests.

    Args:
        tables: `StainEvaluator.table()` by system, at least two.
        metrics: columns to compare.
        reference: compare it with each other system; None compares all pairs.
        resamples: draws of the bootstrap, the same for all pairs.
        confidence: of the intervals, percentiles.
        seed: of the draws.

    Raises:
        CompareError: fewer than two systems, an unknown one or column, other tiles, or a metric without one
            tile that both systems have.
    """
    if len(tables) < 2:
        raise CompareError(f"{len(tables)} system; expected at least two to compare")
    if resamples < 1 or not 0 < confidence < 1:
        raise CompareError(f"{resamples} resamples, confidence {confidence}; expected 1 or more, 0 to 1")
    frames = _aligned(tables, metrics)
    if reference is not None and reference not in frames:
        raise CompareError(f"no system {reference!r}; there are {', '.join(frames)}")
    pairs = [(a, b) for a, b in combinations(frames, 2) if reference is None or reference in (a, b)]
    if reference is not None:
        pairs = [(reference, b if a == reference else a) for a, b in pairs]
    rows, by_case = [], []
    for metric in metrics:
        for first, second in pairs:
            a, b = (frames[name][metric].to_numpy(np.float64) for name in (first, second))
            known = ~(np.isnan(a) | np.isnan(b))
            if not known.any():
                raise CompareError(f"{metric}: no tile has a value under both {first} and {second}")
            case = frames[first]["case"].to_numpy()[known]
            a, b = a[known], b[known]
            code, names = pd.factorize(case, sort=True)
            n = np.bincount(code)
            means = [np.bincount(code, values) / n for values in (a, b)]
            difference = means[0] - means[1]
            draws, kind = _draws(a - b, code, resamples, seed)
            tail = (1 - confidence) / 2
            low, high = np.quantile(draws, [tail, 1 - tail])
            p_tiles, n_tiles = signed_rank(a - b)
            p_cases, n_cases = signed_rank(difference)
            rows.append(
                {
                    "metric": metric, "first": first, "second": second, "difference": difference.mean(),
                    "low": low, "high": high, "resampled": kind, "cases": len(names),
                    "p_tiles": p_tiles, "n_tiles": n_tiles, "p_cases": p_cases, "n_cases": n_cases,
                    "undefined": int((~known).sum()),
                }
            )  # fmt: skip
            by_case.append(
                pd.DataFrame(
                    {
                        "metric": metric, "first": first, "second": second, "case": names,
                        "value_first": means[0], "value_second": means[1], "difference": difference,
                    }
                )
            )  # fmt: skip
    table = pd.DataFrame(rows)
    for test in ("p_tiles", "p_cases"):
        table[f"{test}_holm"] = holm(table[test].to_numpy())
    return StainComparison(table, pd.concat(by_case, ignore_index=True))


def signed_rank(difference: np.ndarray) -> tuple[float, int]:
    """Wilcoxon's signed-rank test, two-sided: p (1 where nothing differs), and how many differ."""
    from scipy import stats

    difference = difference[difference != 0]
    if not len(difference):
        return 1.0, 0
    return float(stats.wilcoxon(difference, zero_method="wilcox").pvalue), len(difference)


def _draws(difference: np.ndarray, code: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, str]:
    """`(B,)` means over cases of the mean difference, of resampled cases, or of tiles within cases."""
    rng = np.random.default_rng(seed)
    n = np.bincount(code)
    cases = len(n)
    if cases >= MIN_CASES:
        mean = np.bincount(code, difference) / n
        return rng.multinomial(cases, np.full(cases, 1 / cases), resamples) @ mean / cases, "cases"
    total = np.zeros(resamples)
    for number in range(cases):
        own = difference[code == number]
        total += rng.multinomial(len(own), np.full(len(own), 1 / len(own)), resamples) @ own / len(own)
    return total / cases, "tiles within cases"


def _aligned(tables: Mapping[str, pd.DataFrame], metrics: Sequence[str]) -> dict[str, pd.DataFrame]:
    frames: dict[str, pd.DataFrame] = {}
    for name, table in tables.items():
        absent = [column for column in ("index", "case", *metrics) if column not in table]
        if absent:
            raise CompareError(f"{name}: no column {', '.join(absent)}; it has {', '.join(table.columns)}")
        if table["index"].duplicated().any():
            raise CompareError(
                f"{name}: tile {table['index'][table['index'].duplicated()].iloc[0]} comes twice"
            )
        frames[name] = table.sort_values("index", ignore_index=True)
    base, first = next(iter(frames.items()))
    for name, frame in frames.items():
        if len(frame) != len(first) or not (frame[["index", "case"]] == first[["index", "case"]]).all(
            axis=None
        ):
            other = set(frame["index"]) ^ set(first["index"])
            raise CompareError(
                f"{name} and {base} stained different tiles ({len(frame)} and {len(first)}, {len(other)} of "
                "them only one of the two); evaluate both on the same split"
            )
    return frames
