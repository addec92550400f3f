"""Stains an H&E slide virtually, scores its nuclei, and compares with the real stain where there is one.

    python examples/stain_and_score.py [HE.tif [IHC.tif [GENERATOR.safetensors]]]

Without arguments it takes a synthetic section, whose ER is known, and the demo generator.
"""

import sys
from pathlib import Path

from past_core.slides import open_slide
from past_core.synthetic.pairs import default_pairs
from past_vihc.hscore.overlay import write_overlay
from past_vihc.hscore.pipeline import score_slide
from past_vihc.wsi.loading import load_stainer
from past_vihc.wsi.output import plan_outputs
from past_vihc.wsi.stainer import stain_slide

OUTPUT = "er.ome.tif"


def main(he: str | None = None, ihc: str | None = None, model: str = "demo") -> None:
    """Stains, scores, prints and draws."""
    if he is None:
        (pair,) = default_pairs(stains=["er"], patients=["P8"])
        he, ihc = str(pair.he), str(pair.ihc)
    generator, encoder = load_stainer(model)
    made = stain_slide(he, plan_outputs(OUTPUT, overwrite=True), generator, encoder)
    print(f"{OUTPUT}: {'complete' if made.complete else 'not complete'}, {made.strips} strips")

    for name, path in {"virtual": OUTPUT, "real": ihc}.items():
        if path is None:
            continue
        # Nuclei are found on the H&E and measured on the stain: the same ones in both.
        found = score_slide(Path(path), Path(he), marker="er", thresholds="qupath", segmenter="watershed")
        if found.score.h is None:
            print(f"{name}: no score: {found.score.why_undefined}")
            continue
        interval = f"{found.interval.low:.0f} to {found.interval.high:.0f}" if found.interval else "none"
        print(
            f"{name}: H-score {found.score.h:.0f} (95 % interval {interval}), {found.score.n} nuclei, "
            f"{found.score.percent_positive:.0f} % positive"
        )
        with open_slide(path) as slide:
            write_overlay(Path(f"{name}.png"), slide, found)
    print("virtual.png, real.png: nuclei by class")


if __name__ == "__main__":
    main(*sys.argv[1:])
