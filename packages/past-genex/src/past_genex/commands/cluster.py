"""`past cluster`: clusters of measured and of predicted expression, and how they correspond."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from past_genex.clusters import ClusterComparison
    from past_genex.clusters.prediction import PredictedCells
    from past_genex.data.slides import ExpressionSlide


class GeneChoice(StrEnum):
    """Which genes."""

    shared = "shared"
    reliable = "reliable"


class MethodChoice(StrEnum):
    """Test for markers."""

    wilcoxon = "wilcoxon"
    t_test = "t-test"


class NormalisationChoice(StrEnum):
    """Scale of the measured expression."""

    median = "median"
    ten_thousand = "10k"
    none = "none"


HELP_PANELS = {
    "Clustering": ("genes", "min_r", "normalisation", "resolution", "clusters", "top", "method"),
    "Labels by retrieval": ("retrieval", "reference", "k"),
}
EXAMPLES = {
    "past cluster P1.zarr --predicted predicted.zarr -o clusters": "do clusters survive prediction?",
    "past cluster P1.zarr --retrieval runs/pretrain --reference P2.zarr -o clusters": (
        "labels cells by those of another slide that they resemble"
    ),
}


def cluster(
    measured: Annotated[Path, typer.Argument(help="A slide store with measured expression.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the results; replaced when it exists.")
    ],
    *,
    predicted: Annotated[
        Path | None, typer.Option(help="Predicted expression of the same slide, from past predict.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Column of obs with reference types. [default: cell_type, where it is there]"),
    ] = None,
    genes: Annotated[
        GeneChoice, typer.Option(help="Genes both have, or of these the ones predicted reliably.")
    ] = GeneChoice.shared,
    min_r: Annotated[float, typer.Option(help="Least held-out r of a reliable gene.", min=-1, max=1)] = 0.1,
    normalisation: Annotated[
        NormalisationChoice | None,
        typer.Option(help="What measured counts are normalised to. [default: the prediction's, else median]"),
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(
            help="Of Leiden, both sides. [default: 1 for measured cells, and for predictions what gives as "
            "many clusters]"
        ),
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(help="Number of clusters wanted on each side, instead of a resolution.")
    ] = None,
    top: Annotated[int, typer.Option(help="Markers of a cluster.", min=1)] = 5,
    method: Annotated[MethodChoice, typer.Option(help="Test for markers.")] = MethodChoice.wilcoxon,
    retrieval: Annotated[
        str | None,
        typer.Option(help="Checkpoint of PAST: label cells also by retrieval from annotated slides."),
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="An annotated slide store to retrieve from; repeatable.")
    ] = None,
    k: Annotated[int, typer.Option(help="Retrieved cells that vote on a label.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Of the clusterings.")] = 0,
    device: Annotated[str, typer.Option(help="For retrieval: auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Compares clusters of measured and of predicted expression.

    Both are clustered on their own (Leiden). Writes clusters.csv (a row per cell), markers.csv,
    correspondence.csv (PCC of every pair of clusters over the union of their markers), scores.json and
    pictures.
    """
    import numpy as np

    from past_core.commands.claim import claim
    from past_genex.clusters.comparison import compare_clusters
    from past_genex.clusters.leiden import ClusterError
    from past_genex.clusters.prediction import choose_genes, match_cells
    from past_genex.clusters.report import write_comparison
    from past_genex.data.slides import ExpressionSlide
    from past_genex.data.targets import Target

    if (retrieval is None) != (not reference):
        raise ClusterError("--retrieval and --reference belong together: an encoder and annotated slides")
    claim(output)
    if output.exists() and not output.is_dir():
        raise ClusterError(f"{output} is a file; the results are a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / "scores.json").is_file():
        raise ClusterError(f"{output} holds other things than results of past cluster; name another folder")
    slide = ExpressionSlide(measured)
    prediction = None if predicted is None else _read(predicted)
    chosen = choose_genes(slide, prediction, min_r=min_r if genes is GeneChoice.reliable else None)
    stated = None if prediction is None else prediction.normalisation
    target = Target.named(normalisation.value if normalisation else stated or "median")
    truth = slide.expression(target, chosen)
    used = np.flatnonzero(truth.any(axis=1))
    if len(used) < slide.n_cells:
        typer.secho(
            f"{slide.n_cells - len(used)} of {slide.n_cells} cells have no count of the {len(chosen)} genes "
            "and are left out",
            err=True,
            fg="yellow",
        )
    values = None
    if prediction is not None:
        rows = match_cells(slide, prediction)[used]
        values = prediction.expression[np.ix_(rows, prediction.genes.get_indexer(chosen))]
    column = labels or ("cell_type" if "cell_type" in slide.store.obs else None)
    annotation = None if column is None else slide.annotation(column).iloc[used]
    found = None
    if retrieval is not None and reference is not None:
        if annotation is None or column is None:
            raise ClusterError(
                f"{measured} has no annotations to score retrieval with; name a column: --labels"
            )
        found = _retrieve(slide, retrieval, reference, column, k=k, device=device)[used]
    comparison = compare_clusters(
        truth[used],
        values,
        genes=chosen,
        labels=annotation,
        labels_name=column or "",
        retrieved=found,
        resolution=resolution,
        clusters=clusters,
        top=top,
        method=method.value,
        seed=seed,
    )
    files = write_comparison(
        comparison,
        output,
        cell_ids=slide.cell_ids[used],
        xy_um=slide.xy_um[used],
        name=slide.name,
        symbols=slide.symbols,
        retrieved=found,
        provenance={
            "measured": str(measured),
            "predicted": None if predicted is None else str(predicted),
            "target": target.name,
            "genes_chosen": genes.value if genes is GeneChoice.shared else f"held-out r >= {min_r:g}",
            "cells_left_out_without_counts": slide.n_cells - len(used),
            "retrieval": None
            if retrieval is None or reference is None
            else {"encoder": retrieval, "k": k, "reference": [str(path) for path in reference]},
        },
    )
    _print(comparison, slide.symbols)
    typer.echo(f"{output}: {', '.join(files)}")


def _read(path: Path) -> "PredictedCells":
    """A prediction of `past predict`, or any AnnData of the same shape."""
    from typing import get_args

    import numpy as np

    from past_genex.clusters.leiden import ClusterError
    from past_genex.clusters.prediction import PredictedCells, read_predicted
    from past_genex.data.targets import Normalisation, Target
    from past_genex.predict.reading import is_prediction, read_prediction

    if not is_prediction(path):
        return read_predicted(path)
    prediction = read_prediction(path)
    manifest = prediction.manifest
    of_name = {Target(each).name: each for each in get_args(Normalisation)}
    normalisation = manifest.get("normalisation") or of_name.get(str(manifest.get("scale")))
    if normalisation is None:
        raise ClusterError(
            f"{path} is on the scale {manifest.get('scale')!r}; expected one of {', '.join(of_name)}"
        )
    return PredictedCells(
        np.concatenate([values for _, values in prediction.batches()]),
        prediction.cell_ids,
        prediction.genes.index.astype(str),
        r=prediction.genes["r"].to_numpy(np.float64),
        centroids=prediction.centroids,
        normalisation=normalisation,
        source=str(path),
    )


def _retrieve(
    slide: "ExpressionSlide", encoder: str, references: list[Path], column: str, *, k: int, device: str
) -> "np.ndarray":
    """`(N,)` labels by retrieval from other slides' annotated transcriptomes."""
    import numpy as np

    from past_core.encoders import load_encoders, resolve_device
    from past_genex.clusters.agreement import known
    from past_genex.clusters.leiden import ClusterError
    from past_genex.clusters.transfer import retrieve_labels
    from past_genex.data.features import joint_features, slide_features
    from past_genex.data.slides import ExpressionSlide

    banks = [ExpressionSlide(path) for path in references]
    for bank in banks:
        if bank.patient == slide.patient:
            raise ClusterError(
                f"{bank.store.path} is of the same patient ({bank.patient}) as {slide.store.path}: retrieval "
                "would find the cells themselves or their neighbours; give slides of other patients"
            )
    annotations = [known(bank.annotation(column)) for bank in banks]
    image, cell = load_encoders(encoder, "joint")
    if cell is None:
        raise ClusterError(f"{encoder} encodes images only; retrieval needs a checkpoint of PAST")
    image.to(resolve_device(device))
    cell.to(resolve_device(device))
    vectors = np.concatenate([joint_features(bank, cell) for bank in banks])
    names = np.concatenate(annotations)
    usable = np.isfinite(vectors).all(axis=1)
    return retrieve_labels(slide_features(slide, image), vectors[usable], names[usable], k=k)[0]


def _print(comparison: "ClusterComparison", symbols: "pd.Series") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sides = {"measured": comparison.measured, "predicted": comparison.predicted}
    for name, side in sides.items():
        if side is None:
            continue
        table = Table(
            "cluster", "cells", "markers", title=f"Clusters of {name} expression", title_justify="left"
        )
        for number, cells in enumerate(side.clustering.sizes):
            rows = side.markers[side.markers["cluster"] == number]
            genes = ", ".join(symbols.get(gene, gene) for gene in rows["gene"])
            table.add_row(str(number), f"{cells:,}", genes or "none")
        console.print(table)
    if comparison.correspondence is not None:
        pairs = comparison.correspondence.table()
        table = Table(
            "predicted",
            "measured",
            "PCC",
            "genes",
            "cells in both",
            title="Best matches",
            title_justify="left",
        )
        for row in pairs[pairs["rank"] == 1].itertuples():
            table.add_row(
                str(row.predicted),
                str(row.measured),
                f"{row.pcc:.3f}",
                str(row.genes),
                f"{row.cells_in_both:,}",
            )
        for number in (comparison.correspondence.best < 0).nonzero()[0].tolist():
            table.add_row(str(number), "none", "undefined", "", "")
        console.print(table)
    for pair, value in comparison.ari.items():
        console.print(f"Adjusted Rand index, {pair}: {value:.3f}", highlight=False)
    for way, result in comparison.scores.items():
        table = Table(
            "type", "cells", "share", "precision", "recall", "F1",
            title=f"Labels from {way} against {comparison.reference_name}", title_justify="left",
        )  # fmt: skip
        for name, row in result.table.iterrows():
            numbers = [f"{row[each]:.3f}" for each in ("precision", "recall", "f1")]
            table.add_row(
                f"{name} (rare)" if row["rare"] else name,
                f"{row['cells']:,}",
                f"{row['share']:.1%}",
                *numbers,
            )
        console.print(table)
        rare = f", mean F1 of rare types {result.rare_f1:.3f}" if result.rare else ", no rare types"
        console.print(
            f"macro F1 {result.macro_f1:.3f}{rare}, accuracy {result.accuracy:.3f}"
            + (f", {result.left_out} cells without annotation left out" if result.left_out else ""),
            highlight=False,
        )
