"""Retrieval figures against a plain loop, and at chance where nothing is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from past_core.retrieval import neighbourhood_ranks, partner_ranks, summarise_ranks


def unit(seed: int, n: int, d: int = 6) -> torch.Tensor:
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))
    return torch.nn.functional.normalize(values, dim=1)


@given(st.integers(1, 40), st.integers(0, 1000), st.integers(1, 17))
def test_ranks_equal_a_sort(n: int, seed: int, chunk: int) -> None:
    queries, gallery = unit(seed, n), unit(seed + 1, n)
    similarity = (queries @ gallery.T).numpy()
    expected = [1 + int((row > row[i]).sum()) for i, row in enumerate(similarity)]
    assert partner_ranks(queries, gallery, chunk=chunk).tolist() == expected


def test_collapsed_embeddings_rank_in_the_middle_not_first() -> None:
    same = torch.ones(101, 4) / 2
    figures = summarise_ranks(partner_ranks(same, same), 101)
    assert figures.median_rank == 51
    assert figures.recall == {1: 0.0, 5: 0.0, 10: 0.0}


def test_perfect_embeddings_are_first() -> None:
    points = unit(0, 50)
    figures = summarise_ranks(partner_ranks(points, points), 50)
    assert figures.recall[1] == 1.0
    assert figures.median_rank == 1
    assert figures.chance == pytest.approx({1: 0.02, 5: 0.1, 10: 0.2})


def test_random_embeddings_are_at_chance() -> None:
    figures = summarise_ranks(partner_ranks(unit(1, 3000), unit(2, 3000)), 3000)
    assert figures.recall[10] == pytest.approx(10 / 3000, abs=4 * (10 / 3000 / 3000) ** 0.5)
    assert figures.median_rank == pytest.approx(1500, rel=0.1)


def test_chance_in_a_small_gallery_is_at_most_one() -> None:
    assert summarise_ranks(torch.tensor([1.0, 2.0]), 5).chance == pytest.approx({1: 0.2, 5: 1.0, 10: 1.0})


def test_neighbourhoods_are_galleries_of_their_own() -> None:
    queries, gallery = unit(3, 30), unit(4, 30)
    groups = [np.arange(0, 12), np.arange(12, 30)]
    ranks, sizes = neighbourhood_ranks(queries, gallery, groups)
    for group, start in ((groups[0], 0), (groups[1], 12)):
        part = partner_ranks(queries[group], gallery[group])
        assert torch.equal(ranks[start : start + len(group)], part)
    assert sizes.tolist() == [12.0] * 12 + [18.0] * 18
