"""Attention as weights, as images and as patches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import typer
from made_survival_model import DIM, GROUPS, MPP, TILE, Made, cohort, exported, loaded, made, network
from PIL import Image
from typer.testing import CliRunner

from past_core.errors import PastError
from past_core.slides import open_slide
from past_surv.commands.heatmap import heatmap
from past_surv.data.patient_slides import PatientSlideError, case_of_slide, patient_slides
from past_surv.figures.curves import FigureError
from past_surv.figures.heatmaps import Overview, PatchPainter, colours, read_overview, write_heatmaps
from past_surv.models.attention import PatchAttention, patch_attention, top_patches
from past_surv.models.inputs import ModelInputError, gene_inputs


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made") / "all")


def run(*arguments: object) -> tuple[str, str]:
    app = typer.Typer()
    app.command()(heatmap)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


# --- attention ----------------------------------------------------------------------------------------------


def test_weights_are_the_softmax_over_all_patches_of_the_patient(paths: Made, tmp_path: Path) -> None:
    own, model = cohort(paths), loaded(tmp_path, "mcat")
    genes = gene_inputs(model.manifest, own, own.rows(["C0"]))
    slides = patient_slides(paths.bags, "S0b.svs", own.slides["C0"])
    patches = slides.features()
    assert (len(patches), slides.part, slides.absent) == (16, slice(0, 4), ())
    found = patch_attention(model, patches, omics=genes.omics, missing=genes.missing)
    output = network("mcat").eval()(torch.tensor(patches)[None], genes.omics)
    np.testing.assert_allclose(found.weights, output.attention[0].softmax(-1).detach(), rtol=1e-5)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)
    assert found.risk == pytest.approx(float(output.risk.detach()), rel=1e-6)
    assert found.names == tuple(GROUPS)
    # Which slide comes first does not matter.
    other = patient_slides(paths.bags, "S0", own.slides["C0"])
    again = patch_attention(model, other.features(), omics=genes.omics, missing=genes.missing)
    assert again.risk == pytest.approx(found.risk, rel=1e-5)
    np.testing.assert_allclose(again.weights[:, 12:], found.weights[:, :4], rtol=1e-4)


def test_genes_are_scaled_as_in_training_and_missing_groups_have_no_map(paths: Made, tmp_path: Path) -> None:
    own, model = cohort(paths), loaded(tmp_path, "mcat")
    genes = gene_inputs(model.manifest, own, own.rows(["C0", "C1", "C3"]))
    expected = (own.omics.loc["C0", GROUPS["Tumor suppressors"]].to_numpy() - 1) / 2
    np.testing.assert_allclose(genes.omics[0][0], expected, rtol=1e-6)
    assert genes.missing.tolist() == [[False, False], [False, True], [True, True]]
    patches = np.random.default_rng(1).normal(size=(5, DIM))
    maps = [
        patch_attention(
            model, patches, omics=[x[k : k + 1] for x in genes.omics], missing=genes.missing[k : k + 1]
        )
        for k in range(3)
    ]
    assert [m.names for m in maps] == [tuple(GROUPS), ("Tumor suppressors",), tuple(GROUPS)]
    assert [m.lacking for m in maps] == [(), ("Kinases",), tuple(GROUPS)]


def test_attention_mil_has_one_map(tmp_path: Path) -> None:
    patches = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float16)
    found = patch_attention(loaded(tmp_path, "mil"), patches)
    output = network("mil").eval()(torch.tensor(patches, dtype=torch.float32)[None])
    np.testing.assert_allclose(found.weights, output.attention[0].softmax(-1).detach(), rtol=1e-5)
    assert found.names == ("all patches",)


def test_what_does_not_fit_is_refused(paths: Made, tmp_path: Path) -> None:
    own, model = cohort(paths), loaded(tmp_path, "mcat")
    patches = np.zeros((3, DIM))
    with pytest.raises(ModelInputError, match="reads no patches"):
        patch_attention(loaded(tmp_path, "snn"), patches)
    with pytest.raises(ModelInputError, match=r"\(M, 8\), by made"):
        patch_attention(model, np.zeros((3, 9)))
    with pytest.raises(ModelInputError, match="give the cohort's table"):
        patch_attention(model, patches)
    poorer = replace(own, omics=own.omics.drop(columns="G3_mut"))
    with pytest.raises(
        ModelInputError, match=r"lacks G3_mut of the 2 columns of group 'Kinases'.*trained on made"
    ):
        gene_inputs(model.manifest, poorer, np.arange(2))
    with pytest.raises(ModelInputError, match="the attention is not finite"):
        patch_attention(loaded(tmp_path, "mil"), np.full((3, DIM), np.nan))
    with pytest.raises(ModelInputError, match="give the file of `past vectors`"):
        gene_inputs(model.manifest | {"vectors": True}, own, np.arange(2))


def test_vectors_are_the_last_group(paths: Made) -> None:
    own = cohort(paths)
    said = {
        "group_names": ["genes", "PAST cells"], "group_columns": [["G0_rnaseq"], ["v0", "v1"]],
        "vectors": True,
        "scalings": [{"mean": [0.0], "deviation": [1.0]}, {"mean": [1.0, 2.0], "deviation": [2.0, 4.0]}],
    }  # fmt: skip
    vectors = pd.DataFrame({"v0": [3.0], "v1": [10.0]}, index=["C1"])
    found = gene_inputs(said, own, own.rows(["C0", "C1"]), vectors=vectors)
    assert found.omics[1].tolist() == [[0.0, 0.0], [1.0, 2.0]]
    assert found.missing.tolist() == [[False, True], [False, False]]
    with pytest.raises(ModelInputError, match="the file of vectors lacks v1"):
        gene_inputs(said, own, np.arange(2), vectors=vectors[["v0"]])


def test_ranks_and_spread() -> None:
    weights = np.array([[0.1, 0.4, 0.4, 0.1], [0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0]])
    found = PatchAttention(names=("a", "b", "c"), weights=weights, risk=0.0)
    np.testing.assert_allclose(found.percentiles()[0], [0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(found.percentiles()[1], 0.5)
    np.testing.assert_allclose(found.effective_patches()[1:], [4, 1])


def test_top_patches_keep_apart() -> None:
    places = np.array([[0, 0], [10, 0], [14, 0], [40, 0]], float)
    weights = np.array([0.2, 0.4, 0.3, 0.1])
    assert top_patches(weights, places, 4, apart=1).tolist() == [1, 2, 0, 3]
    assert top_patches(weights, places, 4, apart=10).tolist() == [1, 0, 3]  # side by side is apart
    assert top_patches(weights, places, 1, apart=10).tolist() == [1]


# --- images -------------------------------------------------------------------------------------------------


def overview(height: int = 40, width: int = 60) -> Overview:
    return Overview(np.full((3, height, width), 200, np.uint8), 2.0, 4.0)


def test_patches_are_painted_where_they_are() -> None:
    painter = PatchPainter(np.array([[40.0, 40.0], [120.0, 40.0]]), 80, overview())
    field = painter.field(np.array([0.25, 1.0]))
    assert (field[:20, :20] == 0.25).all()
    assert (field[:20, 20:40] == 1).all()
    assert not painter.covered[20:].any()
    assert not painter.covered[:, 40:].any()
    image = painter.paint(np.array([0.0, 1.0]), opacity=0.5)
    expected = np.rint(0.5 * 200 + 0.5 * colours()[[0, 255]])
    assert image[:, 5, 5].tolist() == expected[0].tolist()
    assert image[:, 5, 30].tolist() == expected[1].tolist()
    assert (image[:, 20:] == 200).all()
    assert (painter.paint(np.zeros(2), opacity=0) == 200).all()


def test_overlapping_patches_are_averaged_and_small_ones_seen() -> None:
    painter = PatchPainter(np.array([[40.0, 40.0], [80.0, 40.0]]), 80, overview())
    field = painter.field(np.array([0.0, 1.0]))
    assert (field[:20, 10:20] == 0.5).all()
    assert (field[:20, 20:30] == 1).all()
    tiny = PatchPainter(np.array([[0.0, 0.0], [240.0, 160.0]]), 0.1, overview())
    assert tiny.covered.sum() == 2


def test_tiles_side_by_side_leave_no_gap() -> None:
    side = 37.3
    y, x = np.mgrid[:4, :6].reshape(2, -1) * side + side / 2
    painter = PatchPainter(np.stack([x, y], 1), side, overview())
    assert painter.covered[: int(4 * side / 4), : int(6 * side / 4)].all()
    assert painter._count.max() == 1


def test_the_last_tiles_of_a_grid_reach_over_the_border() -> None:
    field = overview()
    width = field.image.shape[2]
    beyond = np.array([[width * field.downsample + 39.0, 40.0], [40.0, 40.0]])
    painter = PatchPainter(beyond, 80, field)
    assert painter.covered[2, width - 1]
    assert not painter.covered[2, width - 2]
    with pytest.raises(FigureError, match="1 of 2 patches lie outside the slide"):
        PatchPainter(np.add(beyond, [1, 0]), 80, field)


def test_places_of_another_slide() -> None:
    with pytest.raises(
        FigureError, match=r"1 of 2 patches lie outside the slide, such as number 1 at x 500, y 8"
    ):
        PatchPainter(np.array([[40.0, 40.0], [500.0, 8.0]]), 80, overview())


def test_overview_is_the_slide(paths: Made) -> None:
    with open_slide(paths.slides / "S0.tif") as slide:
        found = read_overview(slide)
        assert (found.mpp, found.downsample, found.image.shape) == (2.0, 4.0, (3, 84, 112))
        assert found.image[:, 5, 5].tolist() == [100] * 3
        assert found.image[:, 80, 108].tolist() == [188] * 3
        with pytest.raises(FigureError, match="choose a coarser resolution"):
            read_overview(slide, 1e-4)


def test_images_with_pyramids_whole_or_not_at_all(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 1500, 700), np.uint8)
    path, facts = tmp_path / "a.ome.tif", {"risk": 1.5, "heading": "<S> & more"}
    write_heatmaps(path, [("first", lambda: image), ("A & B", lambda: 255 - image)], mpp=4.0, facts=facts)
    with tifffile.TiffFile(path) as file:
        assert [series.name for series in file.series] == ["first", "A & B"]
        assert [[level.shape[:2] for level in series.levels] for series in file.series] == [
            [(1500, 700), (750, 350)]
        ] * 2
        assert "heading" in file.ome_metadata
        second = file.series[1].asarray().astype(int)
    assert np.abs(second - (255 - image.transpose(1, 2, 0).astype(int))).mean() < 20  # JPEG of noise
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(4.0)
    before = path.read_bytes()
    write_heatmaps(path, [("first", lambda: image), ("A & B", lambda: 255 - image)], mpp=4.0, facts=facts)
    assert path.read_bytes() == before

    def fails() -> np.ndarray:
        raise MemoryError

    with pytest.raises(MemoryError):
        write_heatmaps(path, [("first", lambda: image), ("b", fails)], mpp=4.0, facts={})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.tif"]
    for name, images in (("a.tif", [("b", fails)]), ("b.ome.tif", [])):
        with pytest.raises(FigureError, match=r"a name ending in \.ome\.tif"):
            write_heatmaps(tmp_path / name, images, mpp=4.0, facts={})


# --- the verb -----------------------------------------------------------------------------------------------


def test_a_patient_of_two_slides(paths: Made, tmp_path: Path) -> None:
    model, out = exported(tmp_path, "mcat"), tmp_path / "out" / "s0.ome.tif"
    arguments = (
        paths.slides / "S0.tif", "--bag", paths.bags, "--model", model, "--cohort", paths.table, "-o", out,
        "--top", 3, "--device", "cpu",
    )  # fmt: skip
    stdout, stderr = run(*arguments)
    assert "S0.tif, case C0: mcat of made, fold 0: risk" in stdout
    assert "16 patches in 2 bags" in stdout
    assert stderr.strip() == ""
    own, network = cohort(paths), loaded(tmp_path, "mcat")
    genes = gene_inputs(network.manifest, own, own.rows(["C0"]))
    expected = patch_attention(
        network,
        patient_slides(paths.bags, "S0", own.slides["C0"]).features(),
        omics=genes.omics,
        missing=genes.missing,
    )
    table = pd.read_csv(out.with_name("s0.csv"))
    assert table.groupby("group", sort=False).size().to_dict() == dict.fromkeys(GROUPS, 3)
    for number, (_, rows) in enumerate(table.groupby("group", sort=False)):
        order = np.argsort(-expected.weights[number, :12])[:3]
        assert rows["patch"].tolist() == order.tolist()
        np.testing.assert_allclose(rows["weight"], expected.weights[number, order], rtol=1e-5)
    for row in table.itertuples():
        # Tile k of the slide is one grey, so that a picture says which tile it is.
        assert (row.x, row.y) == ((row.patch % 4 + 0.5) * TILE, (row.patch // 4 + 0.5) * TILE)
        with Image.open(out.with_name("s0-patches") / row.file) as file:
            picture = np.asarray(file)
        assert picture.shape == (224, 224, 3)
        assert np.median(picture) == 100 + 8 * row.patch
    assert len(list(out.with_name("s0-patches").iterdir())) == 6
    assert out.with_name("s0.png").read_bytes().startswith(b"\x89PNG")
    ranks = expected.percentiles()[:, :12].reshape(2, 3, 4)
    grey = (100 + 8 * np.arange(12)).reshape(3, 4)
    with tifffile.TiffFile(out) as file:
        assert [series.name for series in file.series] == list(GROUPS)
        for number, series in enumerate(file.series):
            image = series.asarray().astype(float)
            assert image.shape == (84, 112, 3)
            shades = colours()[np.rint(255 * ranks[number]).astype(int)]
            centres = image[14::28, 14::28]
            np.testing.assert_allclose(centres, 0.5 * grey[..., None] + 0.5 * shades, atol=8)
    with pytest.raises(PastError, match="exists already; choose another name or pass --overwrite"):
        run(*arguments)
    before = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    run(*arguments, "--overwrite")
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before
    assert not [path for path in out.parent.rglob("*") if path.name.startswith(".")]


def test_one_bag_and_a_missing_group_are_said(paths: Made, tmp_path: Path) -> None:
    model = exported(tmp_path, "mcat")
    out = tmp_path / "a.ome.tif"
    _, stderr = run(
        paths.slides / "S0.tif",
        "--bag",
        paths.bags / "S0.h5",
        "-m",
        model,
        "--cohort",
        paths.table,
        "-o",
        out,
    )
    assert "1 more slides of the patient have no bag here (S0b)" in stderr
    _, stderr = run(
        paths.slides / "S1.tif", "--bag", paths.bags, "-m", model, "--cohort", paths.table, "-o",
        tmp_path / "b.ome.tif",
    )  # fmt: skip
    assert "no value of Kinases: no map of it" in stderr
    _, stderr = run(
        paths.slides / "S3.tif", "--bag", paths.bags, "-m", model, "--cohort", paths.table, "-o",
        tmp_path / "c.ome.tif",
    )  # fmt: skip
    assert "the maps are those of the average patient" in stderr


def test_attention_mil_needs_no_cohort(paths: Made, tmp_path: Path) -> None:
    out = tmp_path / "a.ome.tiff"
    stdout, stderr = run(
        paths.slides / "S1.tif",
        "--bag",
        paths.bags,
        "-m",
        exported(tmp_path, "mil"),
        "-o",
        out,
        "--out-mpp",
        1,
    )
    assert "S1.tif: mil of made" in stdout
    # A network as it is initialised has no preference.
    assert "the attention of all patches is almost even" in stderr
    with open_slide(out) as slide:
        assert (slide.mpp, slide.width, slide.height) == (1.0, 3 * TILE * MPP, 2 * TILE * MPP)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("mcat", {"--cohort": None}, "MCAT asks the slide by the patient's genes"),
        ("snn", {}, "kind snn, which reads no slides"),
        ("mcat", {"-o": "a.tif"}, "heatmaps are written as NAME.ome.tif"),
        (
            "mcat",
            {"slide": "S1.tif", "--bag": "S0.h5"},
            "made of a slide of 448 x 336 pixels, S1.tif has 336 x 224",
        ),
        ("mcat", {"slide": "other.tif"}, "no case has a slide other"),
        ("mcat", {"slide": "other.tif", "--case": "C2"}, "no bag of slide other; it has 4, such as S0"),
        ("mcat", {"--case": "C9"}, "1 of 1 cases are not in the cohort: C9"),
        ("mcat", {"--patch-um": "-1"}, "expected a positive number"),
    ],
)
def test_what_cannot_be_made(
    kind: str, given: dict[str, str | None], said: str, paths: Made, tmp_path: Path
) -> None:
    usual = {"slide": "S0.tif", "--bag": "", "--cohort": str(paths.table), "-o": "a.ome.tif"} | given
    options = {
        "--bag": paths.bags / usual.pop("--bag"), "-o": tmp_path / usual.pop("-o"),
        "-m": exported(tmp_path / "models", kind),
    }  # fmt: skip
    slide = paths.slides / usual.pop("slide")
    flat = [x for pair in (usual | options).items() if pair[1] is not None for x in pair]
    with pytest.raises(PastError, match=said):
        run(slide, *flat)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_bags_of_another_encoder(paths: Made, tmp_path: Path) -> None:
    model = exported(tmp_path, "mcat", encoder_fingerprint="0" * 16)
    with pytest.raises(
        PastError, match=r"by made \(ffffffffffff\); the network was trained .* \(000000000000\)"
    ):
        run(
            paths.slides / "S0.tif", "--bag", paths.bags, "-m", model, "--cohort", paths.table, "-o",
            tmp_path / "a.ome.tif",
        )  # fmt: skip


def test_cases_are_found_by_their_slides(paths: Made) -> None:
    own = cohort(paths)
    assert [case_of_slide(own, name) for name in ("S0b.svs", "S0b", "S1.tif")] == ["C0", "C0", "C1"]
    with pytest.raises(PatientSlideError, match="name the patient with --case"):
        case_of_slide(own, "S")
