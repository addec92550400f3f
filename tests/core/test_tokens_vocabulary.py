"""Vocabulary: content hash, look-ups, context tokens, and the published genes from every source."""

import json

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from past_core import nicheformer
from past_core.tokens import Vocabulary, VocabularyError, VocabularyNotFoundError
from past_core.vocabulary import gene_id

GENES = ["ENSG00000141736", "ENSG00000091831", "ENSG00000129514"]


def test_a_panel_is_sorted_and_each_gene_taken_once():
    vocabulary = Vocabulary.from_panel([*GENES, "ENSG00000091831.18", GENES[0]])
    assert vocabulary.genes == ("ENSG00000091831", "ENSG00000129514", "ENSG00000141736")
    assert (len(vocabulary), vocabulary.size) == (3, 33)
    assert vocabulary == Vocabulary.from_panel(reversed(GENES))
    assert hash(vocabulary) == hash(Vocabulary(list(vocabulary.genes)))


def test_lookup_ignores_versions():
    vocabulary = Vocabulary.from_panel(GENES)
    found = vocabulary.lookup(["ENSG00000129514.9", "NegControlProbe_00042", "ENSG00000141736", "HLA-A.1"])
    assert found.dtype == np.int64
    assert found.tolist() == [1, -1, 2, -1]
    assert vocabulary.lookup([]).shape == (0,)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("ENSMUSG00000026090.3", "ENSMUSG00000026090"),
        (" ENSG00000139618 ", "ENSG00000139618"),
        ("RP11-34P13.7", "RP11-34P13.7"),  # a symbol with a dot
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378.15_PAR_Y"),
    ],
)
def test_gene_id(name, plain):
    assert gene_id(name) == plain


@given(st.lists(st.text("ACGT0123", min_size=1, max_size=6), min_size=1, max_size=20, unique=True))
def test_round_trip_through_json(genes):
    vocabulary = Vocabulary.from_panel(genes)
    again = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
    assert again == vocabulary
    assert again.fingerprint == vocabulary.fingerprint
    other = Vocabulary.from_panel([*genes, "another"])
    assert other.fingerprint != vocabulary.fingerprint


def test_a_vocabulary_refuses_what_was_made_with_another_one():
    vocabulary, other = Vocabulary.from_panel(GENES), Vocabulary.from_panel(GENES[:2])
    vocabulary.require(vocabulary.fingerprint)
    with pytest.raises(VocabularyError) as error:
        vocabulary.require(other.fingerprint, owner="x.ckpt")
    for part in ("x.ckpt", vocabulary.fingerprint[:12], other.fingerprint[:12]):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ([], "at least one gene"),
        (["A", "B", "A"], "'A' occurs twice"),
        (["A", ""], "gene 1"),
        (["A", float("nan")], "gene 1 of the vocabulary is nan"),
        (["ENSG00000091831.18"], "without version"),
    ],
)
def test_wrong_genes(genes, message):
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(tuple(genes))


def test_a_damaged_stored_vocabulary():
    stored = Vocabulary.from_panel(GENES).to_dict()
    with pytest.raises(VocabularyError, match="damaged"):
        Vocabulary.from_dict({**stored, "genes": stored["genes"][:2]})
    with pytest.raises(VocabularyError, match="lacks"):
        Vocabulary.from_dict({"genes": stored["genes"]})


def test_overlap_warns_of_some_and_refuses_none(caplog):
    vocabulary = Vocabulary.from_panel(GENES)
    assert vocabulary.overlap([GENES[0], "ESR1"], source="slide A").tolist() == [2, -1]
    assert "1 of 2 genes of slide A" in caplog.text
    with pytest.raises(VocabularyError, match=r"none of the 2 genes of slide B \(ESR1, EGFR"):
        vocabulary.overlap(["ESR1", "EGFR"], source="slide B")
    with pytest.raises(VocabularyError, match="none of the 0 genes"):
        vocabulary.overlap([])


def test_context_tokens_and_their_order():
    vocabulary = Vocabulary.from_panel(GENES)
    assert vocabulary.context("xenium", "human", "spatial").tolist() == [9, 5, 4]
    assert vocabulary.context("CosMx", "Mouse", "dissociated").tolist() == [8, 6, 3]
    published = vocabulary.context("xenium", "human", "spatial", order=("modality", "assay", "organism"))
    assert published.tolist() == [4, 9, 5]
    with pytest.raises(
        VocabularyError, match="no token for assay 'visium'; known are merfish, cosmx, xenium"
    ):
        vocabulary.context("visium", "human", "spatial")


@pytest.fixture(scope="module")
def table(shared_data):
    return shared_data / "vocabulary" / "nicheformer_vocab_20310.csv"


def test_published_genes(table):
    vocabulary = Vocabulary.nicheformer(table)
    assert (len(vocabulary), vocabulary.size) == (20310, 20340)
    # EGFR, FOXA1, ACTA2, ERBB2, ESR1, and the first mouse-only gene's place.
    ids = ["ENSG00000146648", "ENSG00000129514", "ENSG00000107796", "ENSG00000141736", "ENSG00000091831"]
    assert (vocabulary.lookup(ids) + 30).tolist() == [8775, 6100, 3451, 8082, 1960]
    assert vocabulary.genes[20158].startswith("ENSG0")
    assert vocabulary.genes[20159].startswith("ENSMUSG")
    assert list(vocabulary.genes) == sorted(vocabulary.genes)


def test_published_genes_of_real_panels(table, shared_data):
    import pandas as pd

    vocabulary = Vocabulary.nicheformer(table)
    for path in (shared_data / "vocabulary" / "xenium_panels").glob("Xenium_h*.csv"):
        ids = pd.read_csv(path)["Ensembl_ID"]
        assert (vocabulary.lookup(ids.tolist()) >= 0).mean() > 0.9, path.name


def write_h5ad(path, genes):
    with h5py.File(path, "w") as file:
        var = file.create_group("var")
        var.attrs["_index"] = "_index"
        var.create_dataset("_index", data=np.array(genes, dtype=object), dtype=h5py.string_dtype())


def test_published_genes_are_fetched_once_into_the_cache(table, tmp_path, monkeypatch):
    import pooch

    genes = Vocabulary.nicheformer(table).genes
    asked = []

    def retrieve(url, known_hash, *, fname, path, progressbar):
        asked.append(url)
        path.mkdir(parents=True, exist_ok=True)
        write_h5ad(path / fname, genes)
        return str(path / fname)

    monkeypatch.setenv("PAST_CACHE", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert Vocabulary.nicheformer().genes == genes
    assert asked[0].endswith("/data/model_means/model.h5ad")
    assert (tmp_path / "nicheformer" / "model.h5ad").is_file()


def test_without_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    import pooch

    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setenv("PAST_CACHE", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(VocabularyNotFoundError, match="give the path of nicheformer_vocab_20310"):
        Vocabulary.nicheformer()


def test_other_files_are_refused(table, tmp_path):
    with pytest.raises(VocabularyNotFoundError, match="no vocabulary file"):
        Vocabulary.nicheformer(tmp_path / "none.csv")
    lines = table.read_text().splitlines()
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines[:100]))
    with pytest.raises(VocabularyError, match="holds 99 genes"):
        Vocabulary.nicheformer(path)
    path.write_text("\n".join([lines[0], lines[2]]))
    with pytest.raises(VocabularyError, match="row 2: index '1'"):
        Vocabulary.nicheformer(path)
    path.write_text("gene,token\nA,30\n")
    with pytest.raises(VocabularyError, match="lacks the column 'index'; it has gene, token"):
        Vocabulary.nicheformer(path)
    path.write_bytes(b"\xff\xfe\x00binary\x9d")
    with pytest.raises(VocabularyError, match="not a CSV table"):
        Vocabulary.nicheformer(path)
    h5ad = tmp_path / "model.h5ad"
    h5ad.write_bytes(b"\x89HDF\r\n\x1a\n" + b"truncated")
    with pytest.raises(VocabularyError, match=r"not an \.h5ad file"):
        Vocabulary.nicheformer(h5ad)
    write_h5ad(h5ad, ["ENSG1", "ENSG2"])
    with pytest.raises(VocabularyError, match="content hash differs"):
        Vocabulary.nicheformer(h5ad)


def test_published_means(table, tmp_path):
    xenium = nicheformer.read_means("xenium", table)
    assert np.count_nonzero(np.isfinite(xenium)) == 1735
    assert np.nanmedian(xenium) == pytest.approx(142.9, abs=0.05)
    merfish = nicheformer.read_means("merfish", table)
    assert np.count_nonzero(np.isfinite(merfish)) == 5757
    assert np.nanmin(merfish) > 0
    prepared = nicheformer.prepared_means("xenium", table)
    assert np.array_equal(prepared, np.floor(np.nan_to_num(xenium, nan=1) + 0.5))
    assert nicheformer.prepared_means("dissociated", table).min() == 1
    path = tmp_path / "xenium_mean_script.npy"
    np.save(path, xenium)
    np.testing.assert_array_equal(nicheformer.read_means("xenium", path), xenium)
    np.save(path, xenium + 1)
    with pytest.raises(VocabularyError, match="content hash differs"):
        nicheformer.read_means("xenium", path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VocabularyError, match="cannot be read"):
        nicheformer.read_means("xenium", path)
    with pytest.raises(VocabularyError, match="no published means for 'visium'"):
        nicheformer.read_means("visium", table)
