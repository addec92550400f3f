"""Synthetic panels and counts."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from past_core.synthetic.cohort import CANCER_TYPES, CELL_TYPES, SyntheticError
from past_core.synthetic.expression import THETA, Expression, log_rates, simulate_expression
from past_core.synthetic.panel import ALWAYS, PANEL_SIZE, GeneModel, all_genes, gene_model, panel
from past_core.synthetic.tissue import Tissue, TissueConfig, simulate_tissue

CONFIG = TissueConfig(patient="A", cancer_type="breast", seed=11, mpp=1.0)


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return simulate_tissue(CONFIG)


@pytest.fixture(scope="module")
def expression(tissue) -> Expression:
    return simulate_expression(tissue)


def genes_of(expression: Expression) -> np.ndarray:
    return np.flatnonzero((expression.features["feature_type"] == "Gene Expression").to_numpy())


def test_the_union_of_panels_is_well_formed():
    genes = all_genes()
    assert len(genes) <= 400
    assert genes["id"].is_unique
    assert genes["symbol"].is_unique
    assert genes["id"].str.fullmatch(r"ENSG\d{11}").all()
    wanted = (
        "ESR1 PGR MKI67 ERBB2 EPCAM KRT5 KRT8 ACTA2 PTPRC CD3E CD8A CD19 MS4A1 CD68 PECAM1 FOXA1 EGFR COL1A1"
    )
    assert set(wanted.split()) <= set(genes["symbol"])


def test_ids_of_well_known_genes():
    ids = all_genes().set_index("symbol")["id"]
    assert ids["ESR1"] == "ENSG00000091831"
    assert ids["MKI67"] == "ENSG00000148773"
    assert ids["EPCAM"] == "ENSG00000119888"
    assert ids["CD8A"] == "ENSG00000153563"


def test_every_id_is_in_the_vocabulary(shared_data):
    with (shared_data / "vocabulary" / "nicheformer_vocab_20310.csv").open() as handle:
        known = {row["ensembl_id"] for row in csv.DictReader(handle)}
    assert len(known) == 20_310
    assert set(all_genes()["id"]) <= known


def test_ids_agree_with_published_panels(shared_data):
    published = {}
    for path in (shared_data / "vocabulary" / "xenium_panels").glob("Xenium_h*.csv"):
        with path.open() as handle:
            for row in csv.DictReader(handle):
                published[row.get("Gene") or row.get("Genes")] = row["Ensembl_ID"]
    ours = dict(all_genes()[["symbol", "id"]].itertuples(index=False))
    shared = ours.keys() & published.keys()
    assert len(shared) > 200
    assert {s: ours[s] for s in shared} == {s: published[s] for s in shared}


def test_panels_mostly_overlap():
    panels = {kind: set(panel(kind)["id"]) for kind in CANCER_TYPES}
    receptors = set(all_genes().set_index("symbol").loc[list(ALWAYS), "id"])
    for kind, genes in panels.items():
        assert len(genes) == PANEL_SIZE
        assert receptors <= genes
        for other in panels.keys() - {kind}:
            assert 0.75 * PANEL_SIZE < len(genes & panels[other]) < PANEL_SIZE
    assert set.union(*panels.values()) <= set(all_genes()["id"])


def test_gene_parameters_are_the_same_in_every_panel():
    breast, lung = gene_model("breast"), gene_model("lung")
    common = [s for s in breast.genes["symbol"] if s in set(lung.genes["symbol"])]
    i = breast.genes.set_index("symbol").index.get_indexer(common)
    j = lung.genes.set_index("symbol").index.get_indexer(common)
    assert np.array_equal(breast.loadings[:, i], lung.loadings[:, j])
    assert np.array_equal(breast.type_effect[:, i], lung.type_effect[:, j])


def test_counts_have_the_stated_depth_and_sparsity(expression):
    genes = genes_of(expression)
    counts = expression.counts[:, genes]
    assert expression.counts.dtype == np.int32
    assert expression.counts.shape[1] == len(expression.features)
    assert len(genes) == PANEL_SIZE
    depth = np.asarray(counts.sum(axis=1)).ravel()
    assert 160 < np.median(depth) < 205
    assert 55 < np.median(np.diff(counts.tocsr().indptr)) < 80
    assert depth.min() > 10


def test_features_are_named_as_in_10x_matrices(expression):
    features = expression.features
    assert list(features.columns) == ["id", "name", "feature_type"]
    assert features["id"].is_unique
    assert set(features["feature_type"]) == {
        "Gene Expression",
        "Negative Control Probe",
        "Negative Control Codeword",
        "Unassigned Codeword",
    }
    assert features["feature_type"].iloc[0] == "Gene Expression"


def test_controls_are_few(expression):
    genes = genes_of(expression)
    total = expression.counts.sum()
    controls = total - expression.counts[:, genes].sum()
    assert 0 < controls < 0.003 * total


def test_counts_spread_as_a_negative_binomial(tissue, expression):
    """Given the true shares, Var = μ + μ²/θ, where a cell's depth is log-normal about its own mean."""
    counts = expression.counts[:, genes_of(expression)].toarray().astype(float)
    share = np.exp(log_rates(tissue))
    scale = counts.sum() / len(counts)
    mean = scale * share
    spread = np.exp(0.35**2)  # E[d²]/E[d]² of a log-normal depth of log standard deviation 0.35
    wanted = mean + mean**2 * (spread * (1 + 1 / THETA) - 1)
    rows = mean > 0.2
    assert 0.93 < ((counts - mean)[rows] ** 2).sum() / wanted[rows].sum() < 1.07
    poisson = mean[rows].sum()
    assert ((counts - mean)[rows] ** 2).sum() > 1.5 * poisson
    np.testing.assert_allclose(counts.sum(0), mean.sum(0), rtol=0.35, atol=40)


def test_rates_are_shares(tissue):
    np.testing.assert_allclose(np.exp(log_rates(tissue)).sum(axis=1), 1)


MARKERS = {
    "CD3E": "t_cell",
    "MS4A1": "b_cell",
    "CD68": "macrophage",
    "PECAM1": "endothelial",
    "COL1A1": "fibroblast",
    "KRT5": "epithelial",
    "MZB1": "plasma",
    "CPA3": "mast",
}


@pytest.mark.parametrize(("symbol", "kind"), MARKERS.items())
def test_markers_mark_their_type(tissue, symbol, kind):
    model = gene_model("breast")
    rate = np.exp(log_rates(tissue)[:, model.genes["symbol"].tolist().index(symbol)])
    means = {t: rate[(tissue.cells["cell_type"] == t).to_numpy()].mean() for t in CELL_TYPES}
    assert max(means, key=means.get) == kind
    assert means[kind] > 2.5 * np.median(list(means.values()))


def test_states_and_programme_drive_their_genes(tissue):
    log, model = log_rates(tissue), gene_model("breast")
    for symbol, state in (("MKI67", "state_1"), ("HIF1A", "state_2"), ("CXCL9", "programme")):
        column = log[:, model.genes["symbol"].tolist().index(symbol)]
        tumour = (tissue.cells["cell_type"] == "tumour").to_numpy()
        assert np.corrcoef(column[tumour], tissue.cells[state][tumour])[0, 1] > 0.6, symbol


def test_receptor_status_is_seen_in_tumour_cells_alone(tissue):
    column = gene_model("breast").genes["symbol"].tolist().index("ESR1")
    tumour = (tissue.cells["cell_type"] == "tumour").to_numpy()
    rates = {}
    for status in (True, False):
        patient = replace(tissue.patient, positive={**tissue.patient.positive, "ESR1": status})
        rates[status] = log_rates(replace(tissue, patient=patient))[:, column]
    assert (rates[True] - rates[False])[tumour].min() > 2
    assert np.array_equal(rates[True][~tumour], rates[False][~tumour])


def test_depth_tells_nothing(tissue, expression):
    depth = np.log(np.asarray(expression.counts.sum(axis=1)).ravel() + 1.0)
    for name in ("cell_area_um2", "nucleus_area_um2", "state_1", "state_2", "programme"):
        assert abs(np.corrcoef(depth, tissue.cells[name])[0, 1]) < 0.08, name
    means = [depth[(tissue.cells["cell_type"] == t).to_numpy()].mean() for t in CELL_TYPES[:6]]
    assert np.ptp(means) < 0.2


def test_same_configuration_same_counts(tissue, expression):
    again = simulate_expression(tissue)
    assert (again.counts != expression.counts).nnz == 0
    assert again.features.equals(expression.features)


def test_divergence_separates_cancer_types_more_than_patients_and_none_changes_nothing() -> None:
    """The truth behind the counts is compared for one tissue under other configurations' gene programmes."""
    tissue = simulate_tissue(TissueConfig(patient="A", cancer_type="breast", seed=3, size_um=160))
    shared = panel("breast")["id"]
    shared = shared[shared.isin(panel("lung")["id"])]

    def rates(**changes: object) -> np.ndarray:
        config = replace(tissue.config, **changes)
        model = gene_model(config.cancer_type)
        keep = model.genes["id"].isin(shared).to_numpy()
        model = GeneModel(
            model.genes[keep].reset_index(drop=True),
            model.base[keep],
            model.type_effect[:, keep],
            model.loadings[:, keep],
        )
        rate = log_rates(replace(tissue, config=config), model)
        return rate - rate.mean(axis=0)

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(np.mean((a - b) ** 2)))

    same = {"divergence": 0.0}
    assert apart(rates(**same), rates(patient="B", **same)) == 0
    assert apart(rates(**same), rates(cancer_type="lung", **same)) == 0
    base = rates(divergence=1.0)
    patient = apart(base, rates(divergence=1.0, patient="B"))
    kind = apart(base, rates(divergence=1.0, cancer_type="lung"))
    assert 0 < patient < kind
    assert apart(rates(**same), rates(divergence=0.5)) < apart(rates(**same), base)
    with pytest.raises(SyntheticError, match="divergence"):
        TissueConfig(patient="A", cancer_type="breast", seed=3, divergence=3)
