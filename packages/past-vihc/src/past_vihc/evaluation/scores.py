"""H-scores of whole cases from virtual and real stain."""

import pandas as pd

from past_vihc.hscore.presets import Thresholds
from past_vihc.hscore.score import h_score


def case_scores(nuclei: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """H-score of every case in the virtual and in the real stain, and their difference.

    Args:
        nuclei: `StainEvaluator.nuclei()`.
        thresholds: between the classes.

    Returns:
        `case`, `stain`, `real`, `fake`, `error` (virtual minus real), `nuclei`.
    """
    rows = []
    for (case, stain), own in nuclei.groupby(["case", "stain"], sort=True):
        real, fake = (h_score(own[name].to_numpy(float), thresholds).h for name in ("real", "fake"))
        rows.append(
            {
                "case": case,
                "stain": stain,
                "real": real,
                "fake": fake,
                "error": fake - real,
                "nuclei": len(own),
            }
        )
    return pd.DataFrame(rows, columns=["case", "stain", "real", "fake", "error", "nuclei"])
