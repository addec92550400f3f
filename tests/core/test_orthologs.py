"""Symbols, Ensembl ids and orthologs, against the shipped tables, the vocabulary and real panels."""

import numpy as np
import pandas as pd
import pytest

from past_core.errors import PastError
from past_core.ingest.genes import gene_table, guess_organism
from past_core.ingest.orthologs import (
    GeneTableError,
    human_orthologs,
    symbols_to_ensembl,
    to_vocabulary,
)

KNOWN = {
    "EPCAM": "ENSG00000119888",
    "CD3E": "ENSG00000198851",
    "ACTA2": "ENSG00000107796",
    # Several ids each: these are the ones of the primary assembly.
    "TNF": "ENSG00000232810",
    "LTB": "ENSG00000227507",
    "HLA-DRA": "ENSG00000204287",
    "PTPRC": "ENSG00000081237",
}


@pytest.fixture(scope="module")
def vocabulary(shared_data):
    return set(pd.read_csv(shared_data / "vocabulary" / "nicheformer_vocab_20310.csv")["ensembl_id"])


def test_symbols():
    assert symbols_to_ensembl(list(KNOWN), "human") == list(KNOWN.values())
    assert symbols_to_ensembl(["Epcam", "epcam", ""], "mouse") == ["ENSMUSG00000045394", None, None]
    assert symbols_to_ensembl(["Epcam"], "human") == [None]


def test_unknown_organism():
    with pytest.raises(GeneTableError, match="organism 'rat' is not known"):
        symbols_to_ensembl(["EPCAM"], "rat")
    assert issubclass(GeneTableError, PastError)


@pytest.mark.parametrize("panel", ["hBreast", "hLung", "hMulti", "hBrain"])
def test_symbols_of_real_panels_map_to_the_vendors_ids(shared_data, panel):
    table = pd.read_csv(shared_data / "vocabulary" / "xenium_panels" / f"Xenium_{panel}_v1_metadata.csv")
    found = np.array(symbols_to_ensembl(table.iloc[:, 0].tolist(), "human"), dtype=object)
    known = found != np.array(None)
    assert known.mean() > 0.97
    assert (found[known] == table["Ensembl_ID"][known]).mean() > 0.995


def test_every_ambiguous_symbol_gets_the_id_that_the_vocabulary_has(shared_data, vocabulary):
    """Where one of a symbol's ids is in the vocabulary, that one should be chosen."""
    del shared_data
    from past_core.ingest.orthologs import _biomart

    genes = _biomart("human").dropna(subset=["Gene name"])
    genes = genes.drop_duplicates(["Gene name", "Gene stable ID"])
    several = genes[genes["Gene name"].duplicated(keep=False)]
    in_vocabulary = several[several["Gene stable ID"].isin(vocabulary)].drop_duplicates("Gene name")
    chosen = symbols_to_ensembl(in_vocabulary["Gene name"].tolist(), "human")
    agreement = (np.array(chosen, dtype=object) == in_vocabulary["Gene stable ID"].to_numpy()).mean()
    assert len(in_vocabulary) > 1400
    assert agreement > 0.985


def test_one_to_one_orthologs():
    mouse = symbols_to_ensembl(["Epcam", "Acta2"], "mouse")
    assert human_orthologs([*mouse, "ENSG00000119888", "nothing"]) == [
        KNOWN["EPCAM"],
        KNOWN["ACTA2"],
        None,
        None,
    ]


def test_orthologs_are_one_to_one():
    from past_core.ingest.orthologs import _one_to_one

    table = _one_to_one()
    assert len(table) > 17_000
    assert len(set(table.values())) == len(table)


def test_a_mouse_panel_in_the_vocabulary(shared_data, vocabulary):
    panel = pd.read_csv(shared_data / "vocabulary" / "xenium_panels" / "Xenium_mBrain_v1.1_metadata.csv")
    ids = panel["Ensembl_ID"].astype(str).tolist()
    genes, report = to_vocabulary(pd.DataFrame({"symbol": panel.iloc[:, 0].to_numpy()}, index=ids))
    assert report["mouse"] == len(ids)
    assert report["mapped"] + report["unmapped"] == len(ids)
    assert report["mapped"] > 0.9 * len(ids)
    assert list(genes["source_id"]) == ids
    mapped = genes.index.str.startswith("ENSG")
    assert mapped.sum() == report["mapped"]
    assert genes.index[mapped].isin(vocabulary).mean() > 0.97
    assert set(genes["symbol"][~mapped][:10]) >= set(report["first_unmapped"])
    assert genes.index.is_unique


def test_an_ortholog_that_is_there_already_is_not_taken_twice():
    epcam, human = symbols_to_ensembl(["Epcam"], "mouse")[0], KNOWN["EPCAM"]
    for order in ([epcam, human], [human, epcam]):
        genes, report = to_vocabulary(pd.DataFrame(index=order))
        assert sorted(genes.index) == sorted(order)
        assert report["unmapped"] == 1


# --- gene tables ------------------------------------------------------------


def test_controls_are_dropped_by_type_or_name():
    names = ["EPCAM", "NegControlProbe_0042", "BLANK_0069", "CD3E", "NEGR1", "antisense_TP53", "BLK"]
    names += ["Negative", "Negative12", "SystemControl3"]
    genes, keep, report = gene_table(pd.DataFrame(index=names), "x")
    assert list(genes["symbol"]) == ["EPCAM", "CD3E", "NEGR1", "BLK"]
    assert keep.tolist() == [0, 3, 4, 6]
    assert report["controls_dropped"] == 6

    types = ["Gene Expression"] * 3 + ["Unassigned Codeword"] + ["Gene Expression"] * 6
    genes, keep, _ = gene_table(pd.DataFrame({"feature_types": types}, index=names), "x")
    assert keep.tolist() == [0, 4, 6]


def test_ids_come_from_index_or_column_or_symbol():
    by_index, _, _ = gene_table(pd.DataFrame({"gene_name": ["A"]}, index=["ENSG00000119888.12"]), "x")
    assert list(by_index.index) == [KNOWN["EPCAM"]]
    assert list(by_index["symbol"]) == ["A"]
    by_column, _, _ = gene_table(pd.DataFrame({"gene_ids": [KNOWN["TNF"]]}, index=["whatever"]), "x")
    assert list(by_column.index) == [KNOWN["TNF"]]
    by_symbol, _, report = gene_table(pd.DataFrame(index=["TNF", "NOTAGENE", "TNF-2"]), "x")
    assert list(by_symbol.index) == [KNOWN["TNF"], "NOTAGENE", "TNF-2"]
    assert report["without_ensembl_id"] == 2


def test_two_rows_of_one_id_stay_apart():
    frame = pd.DataFrame({"gene_ids": [KNOWN["TNF"], KNOWN["TNF"]]}, index=["TNF", "TNF.1"])
    assert list(gene_table(frame, "x")[0].index) == [KNOWN["TNF"], "TNF.1"]


@pytest.mark.parametrize(
    ("names", "organism"),
    [
        (["EPCAM", "CD3E", "C1orf112"], "human"),
        (["Epcam", "Cd3e", "H2-K1"], "mouse"),
        (["ENSMUSG00000045394"], "mouse"),
        (["ENSG00000119888"], "human"),
        ([], "human"),
    ],
)
def test_guess_organism(names, organism):
    assert guess_organism(pd.Index(names, dtype=object)) == organism


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "none of its 0 features is a gene"), (["Blank-1"], "is a gene"), (["a", "b"], "Ensembl id")],
)
def test_no_genes(names, message):
    with pytest.raises(GeneTableError, match=message):
        gene_table(pd.DataFrame(index=pd.Index(names, dtype=object)), "x")
