"""`past calibrate`: thresholds fitted to slides that an expert has scored."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np


EXAMPLES = {
    "past calibrate EXAMPLES.csv --marker er -o thresholds.json": (
        "for past hscore --thresholds thresholds.json"
    ),
}


def calibrate(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV, a row a slide: nuclei (a nuclei.csv) or image, and h_score or negative, weak, "
            "moderate, strong (per cent)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="thresholds.json to write.")],
    marker: Annotated[str, typer.Option(help="er, pr or ki67.")],
    *,
    white: Annotated[str, typer.Option(help="Of images: value of bare glass, or auto.")] = "255",
    stains: Annotated[str, typer.Option(help="Of images: stain vectors, as in past hscore.")] = "qupath-hdab",
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of images that do not state it.")] = None,
) -> None:
    """Fits H-score thresholds to slides that an expert has scored.

    past hscore --thresholds takes the file. Prints the error on the examples and on examples left out, and
    how far each threshold may move for one point of error. Use the same white point and stains for scoring.
    """
    from past_vihc.markers import nuclear_marker

    found = nuclear_marker(marker)

    import importlib.metadata
    import json

    from rich.console import Console

    from past_core.atomic import replacing
    from past_core.commands.claim import claim
    from past_vihc.hscore.calibrate import FEW, fit_thresholds
    from past_vihc.hscore.pipeline import score_slide
    from past_vihc.hscore.presets import FORMAT
    from past_vihc.hscore.scored_examples import read_examples

    claim(output)
    used: set[tuple[str, str]] = set()

    def measure(image: Path, own: float | None) -> "np.ndarray":
        result = score_slide(
            image, marker=marker, thresholds="qupath", white=white, stains=stains, mpp=own or mpp
        )
        used.add((result.record["white"]["source"], result.record["stains"]["name"]))
        return result.nuclei["dab_od"].to_numpy()

    examples = read_examples(table, measure)
    fit = fit_thresholds(examples)
    weak, moderate, strong = fit.thresholds.levels
    record = {
        "format": FORMAT,
        "version": 1,
        "marker": found.name,
        "weak": weak,
        "moderate": moderate,
        "strong": strong,
        "ranges": fit.ranges.tolist(),
        "rmse": fit.rmse,
        "leave_one_out_rmse": fit.loo_rmse,
        "examples": [
            {"name": e.name, "nuclei": len(e.dab), "expert": e.h, "fitted": float(p), "left_out": float(q)}
            for e, p, q in zip(examples, fit.predicted, fit.left_out, strict=True)
        ],
        "software": f"past-vihc {importlib.metadata.version('past-vihc')}",
    }
    if len(used) == 1:  # tables of nuclei do not say
        record["white"], record["stains"] = next(iter(used))
    with replacing(output) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console = Console()
    for name, value, (low, high) in zip(
        ("weak", "moderate", "strong"), fit.thresholds.levels, fit.ranges, strict=True
    ):
        console.print(f"{name} {value:.2f} (within a point of error: {low:.2f} to {high:.2f})", markup=False)
    console.print(
        f"error of the H-score over {len(examples)} examples: {fit.rmse:.1f}; on examples left out: "
        f"{fit.loo_rmse:.1f} (root mean square)"
    )
    if len(examples) < FEW:
        console.print(
            f"Note: fewer than {FEW} examples; the ranges say what they leave open.", style="yellow"
        )
    console.print(f"{output}: written", markup=False)
