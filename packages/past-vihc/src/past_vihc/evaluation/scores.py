"""How far the H-score of a virtual stain is from that of the real one, and from the truth, case by case."""

from collections.abc import Mapping

import pandas as pd

from past_core.errors import PastError
from past_vihc.hscore.presets import Thresholds, thresholds_named
from past_vihc.hscore.score import h_score
from past_vihc.markers import marker


class ScoreErrorError(PastError, ValueError):
    """Tables that no error of an H-score can be made of."""


def h_score_errors(
    nuclei: pd.DataFrame,
    presets: Mapping[str, str | Thresholds] | str | Thresholds,
    *,
    truth: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """H-scores of the virtual and the real stain under the same nuclei, and their distance.

    Args:
        nuclei: one row a nucleus: `case`, `stain`, `fake`, `real` (mean DAB density).
        presets: thresholds by stain, or one for all; names are those of `hscore.presets`. A stain without
            thresholds gets no score.
        truth: one row a nucleus of the whole sections: `case`, `stain`, `dab_od`; the simulator's.

    Returns:
        One row a case and stain: case, stain, n, h_fake, h_real, h_error = |h_fake − h_real|, `why` a score
        is undefined (empty where it is not), thresholds (name); with truth also h_truth, h_error_truth =
        |h_fake − h_truth| and h_error_real_truth = |h_real − h_truth|. Undefined scores are NaN.

    Raises:
        ScoreErrorError: a column is missing, or the truth lacks a case.
        ThresholdError: a preset that is not known.
    """
    _require(nuclei, ("case", "stain", "fake", "real"), "nuclei")
    if truth is not None:
        _require(truth, ("case", "stain", "dab_od"), "truth")
    rows = []
    for (case, stain), own in nuclei.groupby(["case", "stain"], sort=False):
        preset = presets.get(stain) if isinstance(presets, Mapping) else presets
        why = marker(stain).why_no_hscore or ("" if preset is not None else "no thresholds were given")
        row = {"case": case, "stain": stain, "n": len(own), "why": why, "thresholds": ""}
        scores = dict.fromkeys(("h_fake", "h_real") + (() if truth is None else ("h_truth",)), float("nan"))
        if not why:
            limits = preset if isinstance(preset, Thresholds) else thresholds_named(preset)
            row["thresholds"] = limits.name
            values = {"h_fake": own["fake"], "h_real": own["real"]}
            if truth is not None:
                values["h_truth"] = truth.loc[(truth["case"] == case) & (truth["stain"] == stain), "dab_od"]
                if values["h_truth"].empty:
                    raise ScoreErrorError(f"the truth has no nucleus of case {case}, stain {stain}")
            for name, dab in values.items():
                found = h_score(dab.to_numpy(), limits).h
                scores[name] = float("nan") if found is None else found
        rows.append(row | scores)
    columns = ["case", "stain", "n", "why", "thresholds", "h_fake", "h_real"]
    out = pd.DataFrame(rows, columns=columns + ([] if truth is None else ["h_truth"]))
    out["h_error"] = (out["h_fake"] - out["h_real"]).abs()
    if truth is not None:
        out["h_error_truth"] = (out["h_fake"] - out["h_truth"]).abs()
        out["h_error_real_truth"] = (out["h_real"] - out["h_truth"]).abs()
    return out


def _require(table: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    absent = [name for name in columns if name not in table]
    if absent:
        raise ScoreErrorError(
            f"the table of {what} has no {', '.join(absent)}; it has {', '.join(map(str, table.columns))}"
        )
