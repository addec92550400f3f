"""From tiles and nuclei to figures of cases, and to their means: each case counts once, whatever its size."""

import numpy as np
import pandas as pd

from past_vihc.evaluation.dab import correlation, dice, kl_divergence
from past_vihc.evaluation.similarity import PSNR_CAP

COUNTS = ("tiles", "nuclei")


def case_table(table: pd.DataFrame, nuclei: pd.DataFrame, histograms: pd.DataFrame) -> pd.DataFrame:
    """Figures of each case and stain.

    Args:
        table: one row a tile, see `StainEvaluator.table`.
        nuclei: one row a nucleus, see `StainEvaluator.nuclei`.
        histograms: see `StainEvaluator.histograms`.

    Returns:
        case, stain, tiles, nuclei; psnr, ssim, ssim_paper (means over tiles); dab_dice (of the pixels of all
        tiles together), dab_r and dab_mae (over the nuclei of all tiles), dab_r_tiles (mean of r within
        tiles), dab_p90_r (correlation over tiles of the 90th percentiles), dab_kl. NaN is undefined.
    """
    by_nuclei = dict(list(nuclei.groupby(["case", "stain"], sort=False)))
    by_histogram = histograms.set_index(["case", "stain"])
    rows = []
    for (case, stain), tiles in table.groupby(["case", "stain"], sort=False):
        own = by_nuclei.get((case, stain), nuclei.iloc[:0])
        fake, real = own["fake"].to_numpy(np.float64), own["real"].to_numpy(np.float64)
        counts = by_histogram.loc[(case, stain)]
        within = tiles["dab_r"].dropna()
        rows.append(
            {
                "case": case,
                "stain": stain,
                "tiles": len(tiles),
                "nuclei": len(own),
                **{name: float(tiles[name].mean()) for name in ("psnr", "ssim", "ssim_paper")},
                "dab_dice": dice(*(float(tiles[f"dab_{name}"].sum()) for name in ("both", "fake", "real"))),
                "dab_r": correlation(fake, real),
                "dab_mae": float(np.abs(fake - real).mean()) if len(own) else float("nan"),
                "dab_r_tiles": float(within.mean()) if len(within) else float("nan"),
                "dab_p90_r": correlation(tiles["dab_p90_fake"].to_numpy(), tiles["dab_p90_real"].to_numpy()),
                "dab_kl": kl_divergence(counts["real"], counts["fake"]),
            }
        )
    return pd.DataFrame(rows)


def means(cases: pd.DataFrame, table: pd.DataFrame) -> dict[str, float]:
    """Means over the rows of `case_table`, all together and by stain; see `StainEvaluator.summary`."""
    figures = [name for name in cases if name not in ("case", "stain", *COUNTS)]
    out: dict[str, float] = {}
    for prefix, rows in [("", cases), *((f"{s}/", own) for s, own in cases.groupby("stain", sort=False))]:
        for name in figures:
            known = rows[name].dropna()
            out[f"{prefix}{name}"] = float(known.mean()) if len(known) else float("nan")
            if not prefix and len(known) < len(rows):
                out[f"undefined/{name}"] = float(len(rows) - len(known))
    out["tiles"], out["nuclei"] = float(cases["tiles"].sum()), float(cases["nuclei"].sum())
    out["cases"] = float(cases["case"].nunique())
    out["identical"] = float((table["psnr"] >= PSNR_CAP).sum())
    out["tile_px"] = float(np.sqrt((table["height"] * table["width"]).mean()))
    return out
