"""Predicts gene expression from H&E: fits the linear probe on some patients and tries it on another.

    python examples/probe_expression.py [TRAIN.zarr TRAIN.zarr ... TEST.zarr]

The last slide is the one that the probe does not see. `expression.png` shows its best genes, measured and
predicted. Without arguments it takes three synthetic patients and the demo encoder.
"""

import sys

import numpy as np

from past_core import load_image_encoder
from past_core.slides import open_slide
from past_core.synthetic.default import default_slides
from past_genex.data.slides import ExpressionSlide
from past_genex.evaluation.fitting import fit_probe
from past_genex.figures.maps import gene_maps
from past_genex.probe.files import save_probe
from past_genex.systems.base import Surroundings

SHOWN = 4


def main(*paths: str) -> None:
    """Fits, predicts, prints and draws."""
    *training, test = [ExpressionSlide(path) for path in paths or default_slides(patients=3, first=6)]
    encoder = load_image_encoder("demo")
    surroundings = Surroundings()
    probe = fit_probe(training, encoder, surroundings)
    print(save_probe(probe, "probe.safetensors"))

    with open_slide(test.store.path) as opened:
        patches = opened.read_field(test.centroids, encoder.field_um, encoder.patch_size)
    features = np.concatenate([encoder(patches[i : i + 64]).numpy() for i in range(0, len(patches), 64)])
    predicted = probe.predict(features)
    measured = test.expression(surroundings.target, probe.genes)

    r = np.array([_r(*pair) for pair in zip(measured.T, predicted.T, strict=True)])
    trust = probe.trust()
    print(f"{test.name}, patient {test.patient}: {test.n_cells} cells, {np.isfinite(r).sum()} genes")
    print(f"mean r {np.nanmean(r):.3f}; {trust.trusted.sum()} genes are to be trusted by their held-out r")
    best = np.argsort(-np.nan_to_num(r, nan=-1))[:SHOWN]
    for gene in best:
        print(f"{probe.symbols[gene]:10} r {r[gene]:.3f}")
    figure = gene_maps(
        test.xy_um, measured[:, best], predicted[:, best], titles=list(probe.symbols[best]), r=r[best]
    )
    figure.savefig("expression.png", dpi=120)
    print("expression.png: measured beside predicted")


def _r(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Pearson's r; NaN where the gene was not measured or does not vary."""
    if not np.isfinite(measured).all() or not measured.std() or not predicted.std():
        return np.nan
    return float(np.corrcoef(measured, predicted)[0, 1])


if __name__ == "__main__":
    main(*sys.argv[1:])
