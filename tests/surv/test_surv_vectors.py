"""Vectors of patients: predicted expression, the joint space, bulk RNA; their files; `past vectors`."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from made_cohort import small_cohort
from scipy import sparse
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.encoders import load_cell_encoder, load_image_encoder, load_past
from past_core.frozen_cell import FrozenCellEncoder
from past_core.synthetic.panel import all_genes
from past_core.tokens import VocabularyError
from past_surv.data.bag_making import BagSettings, make_bag
from past_surv.data.bag_writing import write_bag
from past_surv.data.bags import BagFolder
from past_surv.data.cohort import Cohort, read_cohort
from past_surv.data.default import SurvivalData
from past_surv.data.predictions import (
    ExpressionError,
    ExpressionNotFoundError,
    find_predictions,
    read_predicted,
)
from past_surv.data.vectors import (
    VectorError,
    VectorNotFoundError,
    bulk_vectors,
    expression_vectors,
    joint_vectors,
    patient_vectors,
    read_vectors,
    write_vectors,
)

GENES = 40
MPP = 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SurvivalData:
    return small_cohort(tmp_path_factory)


@pytest.fixture(scope="module")
def encoder() -> FrozenCellEncoder:
    return load_cell_encoder("demo")


def cohort_of(tmp_path: Path, rows: list[tuple[str, str]], **columns: list) -> Cohort:
    """Rows of case and slide."""
    table = pd.DataFrame(rows, columns=["case_id", "slide_id"])
    table = table.assign(survival_months=5.0, censorship=0, **columns)
    path = tmp_path / "tcga_made_all_clean.csv"
    table.to_csv(path, index=False)
    return read_cohort(path)


def counts_of(cells: int, seed: int = 0) -> np.ndarray:
    stream = np.random.default_rng(seed)
    return stream.poisson(np.exp(stream.normal(0.3, 1.0, (cells, GENES)))).astype(np.float32)


def places_of(cells: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 1000).uniform(0, 400, (cells, 2))


def prediction(
    path: Path, values: np.ndarray, places: np.ndarray, *, genes: list[str] | None = None, **manifest: object
) -> Path:
    """A store as `past predict` writes it, as far as it is read here."""
    genes = genes or list(all_genes()["id"][: values.shape[1]])
    table = ad.AnnData(values, var=pd.DataFrame(index=genes), obsm={"spatial": places})
    (path / "tables").mkdir(parents=True)
    with warnings.catch_warnings(action="ignore"), ad.settings.override(zarr_write_format=3):
        table.write_zarr(path / "tables" / "predicted")
    said = {
        "kind": "prediction",
        "format": 1,
        "slide": path.stem,
        "mpp": MPP,
        "normalisation": "none",
        "scale": "log1p(counts)",
    }
    zarr.open_group(path, mode="a").attrs["past"] = said | manifest
    return path


def test_expression_is_what_the_cell_encoder_makes_of_the_counts(
    tmp_path: Path, encoder: FrozenCellEncoder
) -> None:
    cohort = cohort_of(tmp_path, [("A", "A-DX1.svs"), ("A", "A-DX2.svs"), ("B", "B-DX1.svs"), ("C", "C.svs")])
    sizes, expected = {"A-DX1": 30, "A-DX2": 20, "B-DX1": 25}, {}
    for seed, (name, n) in enumerate(sizes.items()):
        counts, places = counts_of(n, seed), places_of(n, seed)
        prediction(tmp_path / "p" / f"{name}.zarr", np.log1p(counts), places)
        genes = list(all_genes()["id"][:GENES])
        expected[name] = encoder(sparse.csr_matrix(counts), genes, places * MPP).numpy()
    made = expression_vectors(cohort, tmp_path / "p", encoder, cells=None)
    assert list(made.index) == ["A", "B"]
    a = np.concatenate([expected["A-DX1"], expected["A-DX2"]]).mean(0)
    np.testing.assert_allclose(made.loc["A"], a, atol=2e-5)
    np.testing.assert_allclose(made.loc["B"], expected["B-DX1"].mean(0), atol=2e-5)
    facts = made.attrs["past"]
    assert facts["pooled"] == {"A": 50, "B": 25}
    assert facts["absent"] == ["C"]
    assert (facts["source"], facts["fingerprint"]) == ("expression", encoder.fingerprint)


def test_a_draw_of_cells_sees_its_neighbours(tmp_path: Path, encoder: FrozenCellEncoder) -> None:
    cohort = cohort_of(tmp_path, [("A", "A-DX1.svs"), ("A", "A-DX2.svs")])
    full = []
    for seed, name in enumerate(("A-DX1", "A-DX2")):
        counts, places = counts_of(40, seed), places_of(40, seed)
        prediction(tmp_path / "p" / f"{name}.zarr", np.log1p(counts), places)
        genes = list(all_genes()["id"][:GENES])
        full.append(encoder(sparse.csr_matrix(counts), genes, places * MPP).numpy())
    made = expression_vectors(cohort, tmp_path / "p", encoder, cells=30, seed=4)
    rows = np.sort(np.random.default_rng(4).choice(80, 30, replace=False))
    np.testing.assert_allclose(made.loc["A"], np.concatenate(full)[rows].mean(0), atol=2e-5)
    assert made.attrs["past"]["pooled"] == {"A": 30}
    other = expression_vectors(cohort, tmp_path / "p", encoder, cells=30, seed=5)
    assert np.abs(other.to_numpy() - made.to_numpy()).max() > 1e-3


@pytest.mark.parametrize(("factor", "seed"), [(0.3, 0), (7.7, 1), (50.0, 2)])
def test_the_scale_of_a_prediction_does_not_matter(
    tmp_path: Path, encoder: FrozenCellEncoder, factor: float, seed: int
) -> None:
    folder = tmp_path
    cohort = cohort_of(folder, [("A", "A.svs")])
    counts, places = counts_of(12, seed).astype(np.float64), places_of(12, seed)
    made = []
    for k, (times, said) in enumerate(((1.0, "none"), (factor, "10k"), (factor / 3, "median"))):
        place = folder / str(k)
        prediction(place / "A.zarr", np.log1p(counts * times), places, normalisation=said)
        made.append(expression_vectors(cohort, place, encoder, least=1e-6).to_numpy())
    # Ties between genes may break otherwise where the quotients differ in their last bit.
    assert np.corrcoef(made[0], made[1])[0, 1] > 0.999
    assert np.corrcoef(made[0], made[2])[0, 1] > 0.999


def test_what_is_less_than_half_a_count_is_none(tmp_path: Path) -> None:
    values = np.log1p(np.array([[0.2, 0.6, 3.0], [0.0, 0.49, -0.01]]))
    slide = read_predicted(prediction(tmp_path / "A.zarr", values.astype(np.float32), places_of(2)))
    np.testing.assert_allclose(slide.counts(np.arange(2)).toarray(), [[0, 0.6, 3], [0, 0, 0]], rtol=1e-5)
    np.testing.assert_allclose(slide.counts(np.array([1]), least=0.1).toarray(), [[0, 0.49, 0]], rtol=1e-5)
    np.testing.assert_allclose(slide.xy_um, places_of(2) * MPP)


def test_cells_without_a_gene_are_left_out_of_the_mean(tmp_path: Path, encoder: FrozenCellEncoder) -> None:
    cohort = cohort_of(tmp_path, [("A", "A.svs")])
    counts, places = counts_of(30), places_of(30)
    counts[4:14] = 0
    prediction(tmp_path / "p" / "A.zarr", np.log1p(counts), places)
    genes = list(all_genes()["id"][:GENES])
    expected = encoder(sparse.csr_matrix(counts), genes, places * MPP).numpy()
    assert np.isnan(expected[4:14]).all()
    assert np.isfinite(np.delete(expected, slice(4, 14), axis=0)).all()
    made = expression_vectors(cohort, tmp_path / "p", encoder, batch_size=2)  # whole batches without a gene
    np.testing.assert_allclose(made.loc["A"], np.nanmean(expected, axis=0), atol=2e-5)
    assert made.attrs["past"]["pooled"] == {"A": 20}


def test_predictions_from_a_sheet(tmp_path: Path, encoder: FrozenCellEncoder) -> None:
    cohort = cohort_of(tmp_path, [("A", "A.svs"), ("B", "B.svs")])
    for seed, name in enumerate(("one", "two", "three")):
        prediction(tmp_path / f"{name}.zarr", np.log1p(counts_of(10, seed)), places_of(10, seed))
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("case_id,prediction\nA,one.zarr\nA,two.zarr\nB,three.zarr\n")
    made = expression_vectors(cohort, sheet, encoder)
    assert made.attrs["past"]["pooled"] == {"A": 20, "B": 10}
    sheet.write_text("slide,prediction\nA.svs,one.zarr\n")
    assert find_predictions(sheet) == {"A.svs": tmp_path / "one.zarr"}
    assert list(expression_vectors(cohort, sheet, encoder).index) == ["A"]
    for text, said in (
        ("case_id,path\nA,one.zarr\n", "expected prediction, and slide or case_id"),
        ("slide,prediction\nA,one.zarr\nA,two.zarr\n", "line 3: slide A has this prediction already"),
        ("slide,prediction\nA,one.zarr\nB,\n", "line 3: slide or prediction is empty"),
    ):
        sheet.write_text(text)
        with pytest.raises(ExpressionError, match=said):
            find_predictions(sheet)


def spoil_values(path: Path) -> None:
    values = zarr.open_group(path / "tables" / "predicted", mode="a")["X"]
    values[3, 2] = np.nan


def spoil_table(path: Path) -> None:
    shutil.rmtree(path / "tables" / "predicted" / "obsm")


def manifest_of(**said: object) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        attributes = zarr.open_group(path, mode="a").attrs
        attributes["past"] = dict(attributes["past"]) | said

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_values, "NaN or infinite, the first of cell 3"),
        (spoil_table, "is damaged"),
        (manifest_of(format=2), "format 2; expected"),
        (manifest_of(kind="slide"), "kind 'slide'"),
        (manifest_of(normalisation="rank", scale="ranks"), "scale 'ranks'"),
        (manifest_of(mpp=0), "0.0 µm per pixel"),
        (lambda path: (path / "zarr.json").write_text("{"), "kind None"),
    ],
)
def test_predictions_that_cannot_be_used(
    tmp_path: Path, encoder: FrozenCellEncoder, spoil: Callable[[Path], None], said: str
) -> None:
    cohort = cohort_of(tmp_path, [("A", "A.svs")])
    spoil(prediction(tmp_path / "p" / "A.zarr", np.log1p(counts_of(10)), places_of(10)))
    with pytest.raises(ExpressionError, match=said):
        expression_vectors(cohort, tmp_path / "p", encoder)


def test_predictions_that_are_not_there(tmp_path: Path, encoder: FrozenCellEncoder) -> None:
    cohort = cohort_of(tmp_path, [("A", "A.svs")])
    with pytest.raises(ExpressionNotFoundError, match="no such folder"):
        expression_vectors(cohort, tmp_path / "none", encoder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpressionNotFoundError, match=r"no \*\.zarr"):
        expression_vectors(cohort, tmp_path / "empty", encoder)
    with pytest.raises(ExpressionNotFoundError, match="no such prediction"):
        expression_vectors(cohort, {"A": tmp_path / "none.zarr"}, encoder)
    prediction(tmp_path / "p" / "Z.zarr", np.log1p(counts_of(4)), places_of(4))
    with pytest.raises(VectorError, match="none of 1 predictions is of its slides; they are named 'Z'"):
        expression_vectors(cohort, tmp_path / "p", encoder)
    prediction(tmp_path / "low" / "A.zarr", np.full((4, GENES), 0.1), places_of(4))  # a tenth of a count
    with pytest.raises(VectorError, match="case A: none of 4 cells is predicted to express"):
        expression_vectors(cohort, tmp_path / "low", encoder)
    genes = [f"ENSG{k:011}" for k in range(GENES)]
    prediction(tmp_path / "other" / "A.zarr", np.log1p(counts_of(4)), places_of(4), genes=genes)
    with pytest.raises(VocabularyError):
        expression_vectors(cohort, tmp_path / "other", encoder)
    with pytest.raises(VectorError, match="cells is 0"):
        expression_vectors(cohort, tmp_path / "low", encoder, cells=0)


def test_slides_that_trained_the_probe_are_named(
    tmp_path: Path, encoder: FrozenCellEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = cohort_of(tmp_path, [("A", "A.svs")])
    prediction(tmp_path / "p" / "A.zarr", np.log1p(counts_of(9)), places_of(9), training_slide=True)
    made = expression_vectors(cohort, tmp_path / "p", encoder)
    assert made.attrs["past"]["trained_slides"] == ["A"]
    assert "trained the probe" in caplog.text


def joint_bag(folder: Path, name: str, features: np.ndarray, space: str = "joint") -> None:
    facts = {"encoder": "demo", "fingerprint": "f" * 64, "space": space, "kind": "grid"}
    write_bag(folder / f"{name}.h5", features, np.zeros((len(features), 2)), facts)


def test_the_joint_space_is_pooled_over_all_patches(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path, [("A", "A1.svs"), ("A", "A2.svs"), ("B", "B1.svs"), ("C", "C1.svs")])
    stream = np.random.default_rng(0)
    parts = {name: stream.normal(size=(n, 8)) for name, n in (("A1", 5), ("A2", 15), ("B1", 4))}
    for name, features in parts.items():
        joint_bag(tmp_path / "bags", name, features)
    made = joint_vectors(cohort, BagFolder(tmp_path / "bags"))
    np.testing.assert_allclose(made.loc["A"], np.concatenate([parts["A1"], parts["A2"]]).mean(0), atol=2e-3)
    assert made.attrs["past"]["pooled"] == {"A": 20, "B": 4}
    assert made.attrs["past"]["absent"] == ["C"]
    joint_bag(tmp_path / "plain", "A1", parts["A1"], space="features")
    with pytest.raises(VectorError, match="space 'features'; expected"):
        joint_vectors(cohort, BagFolder(tmp_path / "plain"))
    joint_bag(tmp_path / "others", "Z1", parts["A1"])
    with pytest.raises(VectorError, match=r"named 'Z1', the cohort's 'A1\.svs'"):
        joint_vectors(cohort, BagFolder(tmp_path / "others"))


def test_bulk_rna_on_any_scale(data: SurvivalData, encoder: FrozenCellEncoder) -> None:
    cohort = data.cohort
    made = bulk_vectors(cohort, encoder)
    assert made.shape == (len(cohort), encoder.dim)
    assert made.attrs["past"]["symbols_without_id"] == 0
    rna = cohort.omics.filter(regex="_rnaseq$")
    values = np.exp2(rna) - 1

    def other(table: pd.DataFrame) -> Cohort:
        return Cohort(
            name="x", outcome=cohort.outcome, slides=cohort.slides, clinical=cohort.clinical, omics=table
        )

    linear = bulk_vectors(other(values), encoder, scale="linear")
    np.testing.assert_allclose(linear, made, atol=1e-4)
    np.testing.assert_allclose(bulk_vectors(other(np.log1p(values)), encoder, scale="log1p"), made, atol=1e-4)
    # By hand: one cell without neighbours.
    ids = dict(zip(all_genes()["symbol"], all_genes()["id"], strict=True))
    genes = [ids[name.removesuffix("_rnaseq")] for name in rna]
    expected = encoder(sparse.csr_matrix(values.to_numpy()), genes).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-5)
    lacking = rna.copy()
    lacking.iloc[2] = np.nan
    partial = bulk_vectors(other(lacking), encoder)
    assert partial.attrs["past"]["absent"] == ["SYN-0003"]
    np.testing.assert_allclose(partial, made.drop(index="SYN-0003"), atol=1e-5)


def test_z_scores_rank_genes_by_themselves(tmp_path: Path, encoder: FrozenCellEncoder) -> None:
    genes = all_genes()[:30]
    stream = np.random.default_rng(0)
    z = stream.normal(size=(3, 30))
    columns = {f"{symbol}_rnaseq": z[:, k] for k, symbol in enumerate(genes["symbol"])}
    cohort = cohort_of(tmp_path, [(c, f"{c}.svs") for c in "ABC"], **columns)
    with pytest.raises(VectorError, match=r"nothing is negative\. Are these z-scores\?"):
        bulk_vectors(cohort, encoder)
    with pytest.raises(VectorError, match="give means="):
        bulk_vectors(cohort, encoder, scale="zscore")
    means = load_past("demo").gene_means
    made = bulk_vectors(cohort, encoder, scale="zscore", means=means)
    kept = encoder.vocabulary.lookup(list(genes["id"]))
    expected = encoder(
        sparse.csr_matrix(np.maximum(z, 0) * np.where(kept >= 0, np.nan_to_num(means[kept]), 0)),
        list(genes["id"]),
    ).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-5)
    # Only the order counts, and what is above the mean.
    columns = {name: np.where(v > 0, v**3, v * 5) for name, v in columns.items()}
    again = cohort_of(tmp_path, [(c, f"{c}.svs") for c in "ABC"], **columns)
    np.testing.assert_allclose(bulk_vectors(again, encoder, scale="zscore", means=means), made, atol=1e-5)


def test_bulk_rna_that_cannot_be_used(tmp_path: Path, encoder: FrozenCellEncoder) -> None:
    cohort = cohort_of(tmp_path, [("A", "A.svs")], TP53_mut=[1])
    with pytest.raises(VectorError, match="no SYMBOL_rnaseq among 1 columns"):
        bulk_vectors(cohort, encoder)
    cohort = cohort_of(tmp_path, [("A", "A.svs")], NOGENE_rnaseq=[1.0])
    with pytest.raises(VectorError, match="no Ensembl id is known for any of 1 symbols"):
        bulk_vectors(cohort, encoder, ids={"EPCAM": "ENSG00000119888"})
    cohort = cohort_of(tmp_path, [("A", "A.svs")], EPCAM_rnaseq=[5000.0])
    with pytest.raises(VectorError, match="RNA of up to 5000 is not on the scale 'log2p1'"):
        bulk_vectors(cohort, encoder)
    with pytest.raises(VectorError, match="scale 'tpm'; expected log2p1"):
        bulk_vectors(cohort, encoder, scale="tpm")


def test_vectors_are_read_as_they_were_written(tmp_path: Path, data: SurvivalData) -> None:
    made = patient_vectors("bulk", data.cohort, device="cpu")
    path = write_vectors(made, tmp_path / "v.parquet")
    again = read_vectors(path)
    pd.testing.assert_frame_equal(again, made)
    assert again.attrs["past"] == json.loads(json.dumps(made.attrs["past"]))
    assert pd.read_parquet(path).index.name == "case_id"
    with pytest.raises(VectorError, match=r"written as \.parquet"):
        write_vectors(made, tmp_path / "v.csv")
    bare = made.copy()
    bare.attrs = {}
    with pytest.raises(VectorError, match="does not say where it comes from"):
        write_vectors(bare, tmp_path / "w.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["v.parquet"]


def test_files_that_are_no_vectors(tmp_path: Path, data: SurvivalData) -> None:
    with pytest.raises(VectorNotFoundError, match="`past vectors COHORT"):
        read_vectors(tmp_path / "none.parquet")
    path = write_vectors(patient_vectors("bulk", data.cohort, device="cpu"), tmp_path / "v.parquet")
    content = path.read_bytes()
    for wrong in (content[: len(content) // 2], b"", b"PAR1" * 9):
        path.write_bytes(wrong)
        with pytest.raises(VectorError, match="make it again with `past vectors`"):
            read_vectors(path)
    pd.DataFrame({"case_id": ["A"], "v0": [1.0]}).to_parquet(path)
    with pytest.raises(VectorError, match="cannot be read as vectors"):
        read_vectors(path)
    table = patient_vectors("bulk", data.cohort, device="cpu")
    table.iloc[1, 3] = np.inf
    write_vectors(table, path)
    with pytest.raises(VectorError, match="not finite"):
        read_vectors(path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("expression", "give predictions"),
        ("joint", "give bags"),
        ("images", "source 'images'; expected expression, joint, bulk"),
    ],
)
def test_sources_without_their_input(data: SurvivalData, source: str, said: str) -> None:
    with pytest.raises(VectorError, match=said):
        patient_vectors(source, data.cohort)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["vectors", *map(str, arguments)])
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


def test_the_command(tmp_path: Path, data: SurvivalData) -> None:
    table, out = data.source.table, tmp_path / "v.parquet"
    code, said = run(table, "-o", out, "--source", "bulk", "--device", "cpu")
    assert code == 0, said
    assert "10 of 10 patients, 96 wide, source bulk, by demo (features)" in said
    assert read_vectors(out).attrs["past"]["scale"] == "log2p1"
    assert "exists already" in run(table, "-o", out, "--source", "bulk")[1]
    assert "needs --predictions" in run(table, "-o", tmp_path / "w.parquet")[1]
    assert "either --bags or --slides" in run(table, "-o", tmp_path / "w.parquet", "--source", "joint")[1]
    assert "written as .parquet" in run(table, "-o", tmp_path / "w.csv", "--source", "bulk")[1]
    genes = tmp_path / "genes.csv"
    genes.write_text("symbol,id\nEPCAM,ENSG00000119888\nEPCAM,ENSG1\n")
    arguments = (table, "-o", tmp_path / "w.parquet", "--source", "bulk", "--ids", genes)
    assert "symbol EPCAM has two ids" in run(*arguments)[1]
    assert not (tmp_path / "w.parquet").exists()


@pytest.mark.slow
def test_the_joint_space_from_slides(tmp_path: Path, data: SurvivalData) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for slide in ("SYN-0001-01Z-00-DX1", "SYN-0010-01Z-00-DX1", "SYN-0010-01Z-00-DX2"):
        shutil.copy(data.slides[slide], slides)
    out = tmp_path / "v.parquet"
    arguments = (data.source.table, "-o", out, "--source", "joint", "--slides", slides, "--device", "cpu")
    code, said = run(*arguments)
    assert code == 0, said
    made = read_vectors(out)
    assert made.shape == (2, 256)
    assert made.attrs["past"]["pooled"] == {"SYN-0001": 4, "SYN-0010": 8}
    assert "without a vector: SYN-0002" in said
    frozen = load_image_encoder("demo", "joint")
    bag = make_bag(
        data.slides["SYN-0001-01Z-00-DX1"], frozen, tmp_path / "x.h5", BagSettings(dtype="float32")
    )
    expected = BagFolder(bag.parent).find("x").features().mean(0)
    np.testing.assert_allclose(made.loc["SYN-0001"], expected, atol=1e-3)


@pytest.mark.slow
def test_expression_that_past_predict_wrote(tmp_path: Path, data: SurvivalData) -> None:
    from past_core.slides import open_slide
    from past_genex.predict.run import predict_slide
    from past_genex.probe.files import load_probe

    probe, image = load_probe("demo"), load_image_encoder("demo")
    for slide in ("SYN-0001-01Z-00-DX1", "SYN-0010-01Z-00-DX2"):
        with open_slide(data.slides[slide]) as opened:
            made = predict_slide(opened, probe, image, tmp_path / "p" / f"{slide}.zarr")
        read = read_predicted(made.path)
        assert read.genes == tuple(made.genes.index)
        np.testing.assert_allclose(read.xy_um, made.centroids * MPP)
    out = tmp_path / "v.parquet"
    code, said = run(data.source.table, "-o", out, "--predictions", tmp_path / "p", "--device", "cpu")
    assert code == 0, said
    made = read_vectors(out)
    assert list(made.index) == ["SYN-0001", "SYN-0010"]
    assert made.shape[1] == load_cell_encoder("demo").dim
    assert min(made.attrs["past"]["pooled"].values()) > 20
