"""The ceiling of what looks can tell: high at full strength, chance at zero."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from past_core.synthetic.ceiling import fit_reader, knowable, read_log_rates, retrieval
from past_core.synthetic.expression import log_rates, simulate_expression
from past_core.synthetic.tissue import cohort, simulate_tissue


def slides(strength: float):
    """The default cohort, smaller and on coarse masks: looks and counts do not depend on their resolution."""
    return [simulate_tissue(replace(c, size_um=420.0, mpp=1.0)) for c in cohort(morphology=strength)]


@pytest.fixture(scope="module")
def full():
    return slides(1.0)


@pytest.fixture(scope="module")
def zero():
    return slides(0.0)


def held_out_recall(tissues) -> np.ndarray:
    reader = fit_reader(tissues[:3])
    return np.array([retrieval(read_log_rates(reader, t), simulate_expression(t)) for t in tissues[3:]])


def test_at_full_strength_the_looks_tell_nearly_all(full):
    found = knowable(full)
    assert found.state_1 > 0.88
    assert found.state_2 > 0.9
    assert found.programme > 0.75
    assert found.cell_type > 0.97


def test_at_zero_the_looks_tell_nothing(zero):
    found = knowable(zero)
    for name in ("state_1", "state_2", "programme"):
        assert abs(getattr(found, name)) < 0.03, name
    assert found.cell_type < found.majority + 0.02


def test_at_full_strength_retrieval_has_room_above_the_goal(full):
    assert (held_out_recall(full) > 30).all()


def test_at_zero_retrieval_is_chance(zero):
    # About 40 hits are expected in all: pooled, for one figure alone is too noisy.
    assert 0.5 < held_out_recall(zero).mean() < 1.5


def test_types_alone_do_not_reach_the_goal(full):
    """Naming the type gives less than 15 times chance, so the goal needs the state."""
    tissue = full[4]
    log = log_rates(tissue)
    code = tissue.cells["cell_type"].cat.codes.to_numpy()
    noise = 1e-9 * np.random.default_rng(0).standard_normal(log.shape)
    means = np.array([log[code == t].mean(axis=0) for t in range(code.max() + 1)])
    found = retrieval(means[code] + noise, simulate_expression(tissue))
    assert max(found) < 15


def test_the_true_rates_bound_what_the_looks_reach(full):
    tissue = full[3]
    expression = simulate_expression(tissue)
    truth = retrieval(log_rates(tissue), expression)
    looks = retrieval(read_log_rates(fit_reader(full[:3]), tissue), expression)
    assert truth.image_to_gene > looks.image_to_gene > 0.7 * truth.image_to_gene
    assert truth.gene_to_image > looks.gene_to_image > 0.7 * truth.gene_to_image


def test_a_constant_prediction_earns_nothing(full):
    tissue = full[4]
    expression = simulate_expression(tissue)
    constant = np.tile(log_rates(tissue).mean(axis=0), (len(tissue.cells), 1))
    assert max(retrieval(constant, expression)) < 1.5


def test_counts_of_other_cells_are_at_chance(full):
    tissue = full[4]
    expression = simulate_expression(tissue)
    order = np.random.default_rng(0).permutation(len(tissue.cells))
    shuffled = replace(expression, counts=csr_matrix(expression.counts[order]))
    assert np.mean(retrieval(log_rates(tissue), shuffled)) < 2
