"""Which tiles are fit to learn from, and why the others are not.

The paper drops images with large white borders and with undefined cell boundaries and gives no figures
(section Methods, virtual IHC). Here every tile is measured, every limit is a setting, and every dropped tile
has one reason.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from past_core.atomic import replacing
from past_core.errors import PastError
from past_vihc.data.pairs import Pair
from past_vihc.data.survey import MEASURES, Survey, survey_pairs
from past_vihc.data.tiles import COLUMNS, TileSpec, tile_table

logger = logging.getLogger(__name__)

EMPTY, WHITE, BORDER, BLURRED = "empty IHC", "white", "white border", "undefined boundaries"
REASONS = (EMPTY, WHITE, BORDER, BLURRED)
"""Reasons in the order in which they are looked for; a tile has the first that holds."""


class CurationError(PastError, ValueError):
    """Limits out of range, or none of a stain's tiles kept."""


@dataclass(frozen=True, kw_only=True)
class CurationSettings:
    """Limits of curation.

    Args:
        max_white: largest share of background in a tile's H&E.
        max_border: largest share of a tile that is joined to the image's border and is background of the H&E,
            or the pure white or black that registration fills with, of the H&E or the IHC.
        max_empty: largest share of background in the IHC; above it the tile has no IHC. It is high, for
            tissue without the stain is nearly white.
        min_focus: least sharpness of the H&E (see `measures.focus`); cell boundaries are undefined below it.
            For tiles at 0.5 µm per pixel; 0 keeps blurred tiles.

    Raises:
        CurationError: a share outside 0 to 1, or a negative focus.
    """

    max_white: float = 0.5
    max_border: float = 0.25
    max_empty: float = 0.95
    min_focus: float = 0.05

    def __post_init__(self) -> None:
        for name in ("max_white", "max_border", "max_empty"):
            if not 0 <= getattr(self, name) <= 1:
                raise CurationError(
                    f"data.curation.{name} is {getattr(self, name)}; expected a share from 0 to 1"
                )
        if not (np.isfinite(self.min_focus) and self.min_focus >= 0):
            raise CurationError(f"data.curation.min_focus is {self.min_focus}; expected 0 or more")


@dataclass(frozen=True)
class Curation:
    """Curated tiles.

    Attributes:
        tiles: see `tile_table`, with the measures of every tile where tiles were curated.
        settings: the limits; None where every tile was kept.
    """

    tiles: pd.DataFrame
    settings: CurationSettings | None

    def counts(self) -> pd.DataFrame:
        """Tiles by case and stain: `tiles`, `kept`, and one column a reason."""
        table = self.tiles
        groups = table.groupby(["case", "stain"], sort=True)
        counts = pd.DataFrame({"tiles": groups.size(), "kept": groups["kept"].sum()})
        for reason in REASONS:
            counts[reason] = (table["reason"] == reason).groupby([table["case"], table["stain"]]).sum()
        return counts.astype(int).reset_index()

    def __str__(self) -> str:
        kept, n = int(self.tiles["kept"].sum()), len(self.tiles)
        reasons = self.tiles.loc[~self.tiles["kept"], "reason"].value_counts()
        dropped = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none dropped"
        return f"{kept} of {n} tiles kept ({dropped})"

    def write(self, path: str | Path) -> Path:
        """Writes every tile with its measures and its reason as CSV, whole or not at all."""
        path = Path(path)
        with replacing(path) as temporary:
            self.tiles.to_csv(temporary, index_label="index")
        logger.info("wrote %s: %s", path, self)
        return path


def curate(
    pairs: Sequence[Pair],
    spec: TileSpec,
    settings: CurationSettings | None = None,
    *,
    source_mpp: float | None = None,
    cache: str | Path | None = None,
) -> Curation:
    """Cuts pairs into tiles and says which are fit; needs no Lightning.

    Args:
        pairs: what there is.
        spec: the tiles.
        settings: the limits; None keeps every tile and measures none.
        source_mpp: see `open_pair`.
        cache: folder of the cache in which measures are kept; `PAST_CACHE`, else the user's.

    Raises:
        PairError, PairNotFoundError, SlideError, TileError: a pair that cannot be used.
    """
    looks = survey_pairs(pairs, spec, measure=settings is not None, source_mpp=source_mpp, cache=cache)
    table = tile_table(pairs, [tuple(look["grid"].tolist()) for look in looks], spec)
    if settings is not None:
        table = _judge(table, looks, settings)
    curation = Curation(table, settings)
    logger.info("%s", curation)
    for row in curation.counts().to_dict("records"):
        if row["kept"] < row["tiles"]:
            logger.info(
                "case %s, %s: %d of %d tiles kept; %s",
                *(row["case"], row["stain"], row["kept"], row["tiles"]),
                ", ".join(f"{row[reason]} {reason}" for reason in REASONS if row[reason]),
            )
    return curation


def _judge(table: pd.DataFrame, looks: Sequence[Survey], settings: CurationSettings) -> pd.DataFrame:
    table = table.assign(
        **{name: np.concatenate([look[name].ravel() for look in looks]) for name in MEASURES}
    )
    he, ihc = table["he_white"], table["ihc_white"]
    faults = {
        # Where the H&E is as white there is no tissue, which is another reason.
        EMPTY: (ihc > settings.max_empty) & (he <= settings.max_white),
        WHITE: he > settings.max_white,
        BORDER: np.maximum(table["he_border"], table["ihc_border"]) > settings.max_border,
        BLURRED: table["focus"] < settings.min_focus,
    }
    reason = np.select(list(faults.values()), list(faults), default="")
    table = table.assign(reason=reason, kept=reason == "")
    return table[[*COLUMNS, *MEASURES, "pair", "row", "column"]]


def check_parts(curation: Curation, stains: Sequence[str]) -> None:
    """Refuses data in which a stain cannot be learned, and warns where it cannot be evaluated.

    Args:
        curation: its tiles with the column `part`.
        stains: names of stains.

    Raises:
        CurationError: a stain without training tiles, with the counts.
    """
    table = curation.tiles
    parts = table["part"].unique()
    for stain in stains:
        have = set(table.loc[table["kept"] & (table["stain"] == stain), "part"])
        if "train" not in have:
            raise CurationError(
                f"no training tiles of {stain} are kept:\n{curation.counts().to_string(index=False)}\n"
                "Raise the limits in data.curation, or name other data.val_cases and data.test_cases"
            )
        for part in sorted(set(parts) - have):
            logger.warning("no tiles of %s are kept in the part %s", stain, part)
