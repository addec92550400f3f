"""HEST-Bench's protocol for every encoder, with its files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from past_core.frozen import EncoderNotFoundError
from past_genex.data.fold import Split
from past_genex.data.slides import ExpressionSlide
from past_genex.evaluation.hest import HestResult, hest_genes, hest_protocol
from past_genex.evaluation.outcome import Outcome, Say, StudyError, slides_table, software
from past_genex.evaluation.report import USE, digits, write_json
from past_genex.evaluation.settings import build_split
from past_genex.evaluation.tables import plain_table
from past_genex.systems.base import Surroundings
from past_genex.systems.features import EncoderFeatures


def run_hest(
    slides: Sequence[ExpressionSlide],
    encoders: Sequence[str],
    surroundings: Surroundings,
    folder: Path,
    *,
    genes: pd.Index | None = None,
    report: Say = lambda text: None,
) -> Outcome:
    """HEST-Bench's protocol for every encoder, see `hest`.

    Raises:
        StudyError: no encoder's weights are here.
        HestProtocolError, SplitError: slides on which it cannot run.
    """
    from past_core.encoders import load_image_encoder

    split = build_split("patients", slides, rim_um=0.0)
    chosen = hest_genes(split.slides) if genes is None else genes
    results: list[tuple[HestResult, float]] = []
    notes = []
    for name in encoders:
        report(f"HEST-Bench protocol: {name}")
        try:
            encoder = load_image_encoder(name)
        except EncoderNotFoundError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        features = EncoderFeatures(encoder, surroundings)
        made = hest_protocol(name, split, partial(_features_of, features, split), genes=chosen)
        results.append((made, encoder.field_um))
    if not results:
        raise StudyError("no encoder could be evaluated: " + "; ".join(notes))
    folds = results[0][0].folds
    table = plain_table(
        f"HEST-Bench protocol, {split.name}: {len(chosen)} genes",
        "encoder", "field µm", "r", "sd over folds",
        caption="Mean over genes, then over folds; constant pairs of fold and gene are left out: "
        + ", ".join(f"{made.system} {made.constant}" for made, _ in results) + ".",
    )  # fmt: skip
    by_fold = plain_table("r by fold", "fold", *(made.system for made, _ in results))
    for fold, *values in zip(folds, *(made.per_fold for made, _ in results), strict=True):
        by_fold.add_row(fold, *map(digits, values))
    rows = []
    for made, field_um in results:
        table.add_row(made.system, f"{field_um:g}", digits(made.mean), digits(made.sd))
        rows.append(
            {
                "encoder": made.system,
                "field_um": field_um,
                "r": made.mean,
                "sd": made.sd,
                "per_fold": dict(zip(folds, made.per_fold.tolist(), strict=True)),
                "dimensions": made.dimensions.tolist(),
                "cells": made.n.tolist(),
                "constant": made.constant,
            }
        )
    columns = {
        f"{made.system} {fold}": r for made, _ in results for fold, r in zip(folds, made.r, strict=True)
    }
    pd.DataFrame(columns, index=chosen.rename("gene")).to_csv(folder / "genes-hest.csv", float_format="%.5f")
    content = {
        "protocol": "hest",
        "use": USE,
        "target": "log1p(counts)",
        "genes": list(chosen),
        "slides": slides_table(slides),
        "description": split.describe(),
        "encoders": rows,
        "notes": notes,
        "software": software(),
    }
    write_json(content, folder / "results.json")
    return Outcome([table, by_fold], notes, sorted(path.name for path in folder.iterdir()))


def _features_of(features: EncoderFeatures, split: Split, slide: int) -> np.ndarray:
    return features.of(split.slides[slide])
