"""Splits by case: nobody on both sides, whatever the pairs."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from past_vihc.data.content import content_key, duplicates
from past_vihc.data.pairs import Pair
from past_vihc.data.split import CaseSplit, CaseSplitError, split_cases


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(80)]
    for number, path in enumerate(paths):
        path.write_bytes(b"image %d" % number)
    return paths


def made(images: list[Path], cases: list[str]) -> list[Pair]:
    return [Pair(case, "er", images[2 * n], images[2 * n + 1]) for n, case in enumerate(cases)]


@given(
    cases=st.lists(st.integers(0, 19).map(lambda n: f"case {n}"), min_size=1, max_size=40),
    fractions=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_every_case_is_on_one_side_in_the_wanted_shares(images, cases, fractions, seed, data) -> None:
    pairs = made(images, cases)
    n = len(set(cases))
    wanted = [max(1, round(share * n)) if share else 0 for share in fractions]
    if sum(wanted) >= n:
        with pytest.raises(CaseSplitError, match="leave none to train on"):
            split_cases(pairs, fractions=fractions, seed=seed)
        return
    split = split_cases(pairs, fractions=fractions, seed=seed)
    sides = [set(split.train), set(split.val), set(split.test)]
    assert set().union(*sides) == set(cases)
    assert sum(map(len, sides)) == n
    assert [len(split.val), len(split.test)] == wanted
    parts = [split.pairs(pairs, part) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(pairs)
    assert not ({p.case for p in parts[0]} & {p.case for p in parts[1] + parts[2]})
    assert split_cases(data.draw(st.permutations(pairs)), fractions=fractions, seed=seed) == split


@given(st.sets(st.integers(0, 9), max_size=4), st.sets(st.integers(0, 9), max_size=4), st.integers(0, 99))
def test_named_cases_are_where_they_were_named(images, val, test, seed) -> None:
    pairs = made(images, [f"c{n}" for n in range(10)])
    names = [{f"c{n}" for n in numbers} for numbers in (val, test)]
    if val & test:
        with pytest.raises(CaseSplitError, match="more than one side"):
            split_cases(pairs, val_cases=names[0], test_cases=names[1], seed=seed)
        return
    split = split_cases(pairs, val_cases=names[0], test_cases=names[1], seed=seed)
    assert (set(split.val), set(split.test)) == tuple(names)
    drawn = split_cases(pairs, test_cases=names[1], fractions=(0.3, 0.9), seed=seed)
    assert set(drawn.test) == names[1]
    assert len(drawn.val) == 3


def test_another_case_moves_few(images) -> None:
    before = split_cases(made(images, [f"c{n}" for n in range(30)]))
    after = split_cases(made(images, [f"c{n}" for n in range(31)]))
    assert sum(before.part(f"c{n}") != after.part(f"c{n}") for n in range(30)) <= 2


def test_another_seed_is_another_split(images) -> None:
    pairs = made(images, [f"c{n}" for n in range(30)])
    assert len({split_cases(pairs, seed=seed).test for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_cases": ["nobody"]}, "data.val_cases names nobody; the pairs' cases are a, b"),
        ({"fractions": (0.2, 1.0)}, "1.0 for test; expected a share from 0 to below 1"),
        ({"fractions": (0.2, 0.2)}, "2 cases .a, b. leave none to train on"),
        ({"val_cases": ["a"], "test_cases": ["b"]}, "leave none to train on"),
    ],
)
def test_splits_that_cannot_be(images, options, message) -> None:
    with pytest.raises(CaseSplitError, match=message):
        split_cases(made(images, ["a", "b"]), **options)


def test_one_case_alone_is_trained_on_only_where_asked(images) -> None:
    pairs = made(images, ["a", "a"])
    with pytest.raises(CaseSplitError, match="Patches of one case are never split"):
        split_cases(pairs)
    assert split_cases(pairs, fractions=(0.0, 0.0)) == CaseSplit(("a",), (), ())


def test_one_image_under_two_cases_is_refused(images, tmp_path: Path) -> None:
    pairs = made(images, ["a", "b", "c"])
    copy = tmp_path / "renamed.png"
    copy.write_bytes(images[0].read_bytes())
    with pytest.raises(
        CaseSplitError, match=r"0\.png of case a and .*renamed\.png of case d are the same image"
    ):
        split_cases([*pairs, Pair("d", "er", copy, images[20])])
    with pytest.raises(CaseSplitError, match=r"0\.png belongs to the cases a and d"):
        split_cases([*pairs, Pair("d", "pr", images[0], images[20])])
    split_cases([*pairs, Pair("a", "pr", images[0], images[20]), Pair("a", "ki67", copy, images[21])])


def test_images_that_begin_and_end_alike_are_told_apart(tmp_path: Path) -> None:
    white = b"\xff" * 2**20
    paths = [tmp_path / name for name in "abc"]
    for path, middle in zip(paths, (b"1", b"2", b"1"), strict=True):
        path.write_bytes(white + middle * 10 + white)
    assert len({content_key(path) for path in paths}) == 1
    assert duplicates(paths) == [(paths[0].resolve(), paths[2].resolve())]


def test_the_report_counts(images) -> None:
    split = split_cases(made(images, ["a", "b", "c"]), val_cases=["b"], test_cases=["c"])
    tiles = pd.DataFrame({"case": ["a", "a", "b", "c"], "kept": [True, False, True, True]})
    assert split.report(tiles).splitlines() == [
        "train: 1 cases (a), 1 of 2 tiles",
        "val: 1 cases (b), 1 of 1 tiles",
        "test: 1 cases (c), 1 of 1 tiles",
        "no case is on both sides",
    ]
