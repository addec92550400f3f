"""Makes the leaderboard's pictures: the packages' own figures on the embedded default.

Nothing is trained anew but a probe and the survival models of the benchmark, which the cache keeps.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pictures.catalogue import CATALOGUE, FOLDER, ROOT
from benchmarks.pictures.overview import overview

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from past_genex.data.slides import ExpressionSlide

LARGEST = 300_000
"""Bytes of a picture at most; it is drawn with fewer pixels and colours until it fits."""
DPI = (120, 110, 100, 90, 80, 70)


class PictureError(ValueError):
    """A picture that is too large whatever is done."""


def make_all(folder: Path = ROOT / FOLDER, names: tuple[str, ...] = ()) -> list[Path]:
    """Makes every picture of the catalogue, or those named.

    Args:
        folder: where they go.
        names: which; all without.

    Returns:
        The files.

    Raises:
        PictureError: one that is too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in CATALOGUE:
        if not names or picture.name in names:
            path = folder / picture.file
            save(MAKERS[picture.name](), path)
            written.append(path)
    return written


def save(figure: "Figure", path: Path, *, largest: int = LARGEST) -> None:
    """Writes a PNG of 256 colours, as sharp as the bound on its size allows.

    Raises:
        PictureError: too large at the lowest resolution.
    """
    from PIL import Image

    size = 0
    for dpi in DPI:
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=dpi, format="png", facecolor="white")
        image = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
        out = io.BytesIO()
        image.save(out, format="png", optimize=True)
        size = len(out.getvalue())
        if size < largest:
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(out.getvalue())
            temporary.replace(path)
            return
    raise PictureError(f"{path.name}: {size:,} bytes at {DPI[-1]} dpi; expected below {largest:,}")


def retrieval() -> "Figure":
    """Image queries of a patient whom the demo encoder never saw, and the cells it retrieves."""
    import torch

    from past_core.figures import retrieval_panel
    from past_core.retrieval import partner_ranks
    from past_core.slides import open_slide
    from past_core.slides.patches import patches

    slide, image, cell = joint_sides()
    n, queries, shown = len(image), 5, 6
    query = np.linspace(0, n - 1, queries + 2)[1:-1].round().astype(int)
    top = np.argsort(-(image[query] @ cell.T), axis=1)[:, :shown]
    ranks = partner_ranks(torch.from_numpy(image), torch.from_numpy(cell))[torch.from_numpy(query)]
    with open_slide(slide.store.path) as pixels:
        rows = np.concatenate([query, top.ravel()])
        cut = patches(pixels, slide.centroids[rows], mpp=0.5, size=112)
    return retrieval_panel(
        cut[:queries],
        cut[queries:].reshape(queries, shown, 3, 112, 112),
        ranks.int().tolist(),
        partner=top == query[:, None],
        title=f"{slide.name}, synthetic: retrieved by image among {n:,} transcriptomes (green: itself)",
    )


def umap() -> "Figure":
    """Both sides of the joint space of the same cells."""
    from umap import UMAP

    from past_core.figures import joint_map

    slide, image, cell = joint_sides()
    chosen = np.sort(np.random.default_rng(0).permutation(len(image))[:1000])
    types = slide.annotation("cell_type").to_numpy(str)[chosen]
    both = np.concatenate([image[chosen], cell[chosen]])
    points = UMAP(metric="cosine", random_state=0, n_neighbors=15).fit_transform(both)
    sides = np.repeat(["image", "transcriptome"], len(chosen))
    return joint_map(
        points,
        colourings={"side": sides, "cell type": np.tile(types, 2)},
        title=f"UMAP of the joint space: {len(chosen):,} cells of {slide.name}, both sides (synthetic)",
    )


def genes() -> "Figure":
    """Measured and predicted expression of a patient left out."""
    from past_genex.figures.maps import gene_maps
    from past_genex.metrics.pairs import PairMoments

    slide, _, symbols, predicted, measured = left_out_patient()
    r = PairMoments.of(predicted, measured).r
    best = np.argsort(-np.nan_to_num(r, nan=-2.0))[:4]
    return gene_maps(
        slide.xy_um,
        measured[:, best],
        predicted[:, best],
        titles=[symbols[number] for number in best],
        r=r[best],
        r_label="held-out r",
        heading=f"{slide.name}, synthetic, left out: measured beside predicted (ridge on the demo encoder)",
    )


def clusters() -> "Figure":
    """Clusters of both sides in space."""
    from past_genex.clusters import compare_clusters
    from past_genex.clusters.report import pictures

    slide, ids, _, predicted, measured = left_out_patient()
    types = slide.annotation("cell_type")
    found = compare_clusters(measured, predicted, genes=ids, labels=types)
    return pictures(found, slide.xy_um, name=f"{slide.name}, synthetic, left out")["clusters"]


def stain() -> "Figure":
    """The brownest tile of each held-out patient, under the demo generator."""
    from past_vihc.figures.panels import stain_panels

    best, mpp = brown_tiles()
    cases = sorted(best)
    he, virtual, real = (np.stack([best[case][n] for case in cases]) for n in range(3))
    return stain_panels(
        {"H&E": he, "virtual ER": virtual, "real ER": real},
        real="real ER",
        rows=cases,
        heading="demo generator, synthetic patients",
        bar_um=20.0,
        mpp=mpp,
    )


def survival() -> "Figure":
    """High against low risk, out of fold, by system."""
    from benchmarks.tasks.surv import simulated
    from past_surv.figures.curves import curve_grid

    report, _, _ = simulated("full")
    columns = {
        "none/cox-age-sex": "age and sex",
        "none/snn": "genes (SNN)",
        "random/mcat": "MCAT, noise for slides",
        "demo/mcat": "MCAT, demo encoder",
    }
    splits = [split for split in report.splits if split.split == "pooled"]
    return curve_grid(
        splits,
        rows=["synthetic"],
        columns=list(columns),
        labels=columns,
        heading="The simulator's cohort, out of fold: high and low predicted risk",
    )


MAKERS: dict[str, Callable[[], "Figure"]] = {
    "retrieval": retrieval,
    "umap": umap,
    "genes": genes,
    "clusters": clusters,
    "stain": stain,
    "survival": survival,
    "overview": overview,
}


def brown_tiles() -> tuple[dict[str, tuple[np.ndarray, ...]], float]:
    """H&E, virtual and real stain, (3, L, L) each, of each held-out patient's brownest tile; their mpp."""
    from benchmarks.tasks.vihc import HELD_OUT
    from past_vihc.data.datamodule import StainDataModule
    from past_vihc.files import load_generator

    model = load_generator("demo")
    encoder = None if model.encoder is None else model.encoder.name
    data = StainDataModule(
        encoder=encoder,
        granularity=model.granularity,
        pitch_um=model.pitch_um or model.tile * model.mpp,
        tile=model.tile,
        mpp=model.mpp,
        test_cases=HELD_OUT,
        val_cases=[],
    )
    data.prepare_data()
    data.setup("test")
    best: dict[str, tuple[float, tuple[np.ndarray, ...]]] = {}
    for batch in data.test_dataloader():
        brown = -batch.ihc[:, 2].float().mean((1, 2))
        for row, case in enumerate(batch.case):
            if case not in best or float(brown[row]) > best[case][0]:
                own = slice(row, row + 1)
                made = model(batch.he[own], batch.embedding[own] if encoder else None)
                tiles = batch.he[row].numpy(), made[0].cpu().numpy(), batch.ihc[row].numpy()
                best[case] = float(brown[row]), tiles
    return {case: tiles for case, (_, tiles) in best.items()}, model.mpp


def joint_sides() -> tuple["ExpressionSlide", np.ndarray, np.ndarray]:
    """A slide that the demo encoder never saw, and both its sides `(N, d)`, each row of length 1.

    Raises:
        PictureError: cells that the encoder cannot embed.
    """
    from past_core.encoders import load_encoders
    from past_core.synthetic.default import default_slides
    from past_genex.data.features import joint_features, slide_features
    from past_genex.data.slides import ExpressionSlide

    slide = ExpressionSlide(default_slides()[3])  # the first of the two that pretraining holds out
    image_encoder, cell_encoder = load_encoders("demo", "joint")
    image, cell = slide_features(slide, image_encoder), joint_features(slide, cell_encoder)
    if not np.isfinite(cell).all():
        raise PictureError(f"{slide.name}: cells without a count of a gene that the demo encoder knows")
    unit = [np.asarray(side) / np.linalg.norm(side, axis=1, keepdims=True) for side in (image, cell)]
    return slide, unit[0], unit[1]


def left_out_patient() -> tuple["ExpressionSlide", "pd.Index", list[str], np.ndarray, np.ndarray]:
    """The first patient of the cohort, predicted by a probe of the three others.

    Returns:
        The slide, ids and symbols of the genes that the others measure too, and `(N, G)` predicted and
        measured expression.
    """
    from benchmarks.tasks.clusters import left_out
    from past_genex.data.default import default_cohort
    from past_genex.data.slides import ExpressionSlide
    from past_genex.data.targets import Target

    target = Target("median")
    slides = [ExpressionSlide(path) for path in default_cohort(patients=4)]
    _, predicted = next(iter(left_out("ridge:demo", slides, target, range(1))))
    whole = np.isfinite(predicted).all(axis=0)
    ids = slides[0].genes[whole]
    symbols = [str(symbol) for symbol in slides[0].symbols[whole]]
    return slides[0], ids, symbols, predicted[:, whole], slides[0].expression(target, ids)
