"""IHC4BC's layout: cases from names, partners by name, discarded pairs left out."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_pairs import made_pair, write_image

from past_core.nuclei.ihc4bc import IhcLabelError
from past_vihc.data.ihc4bc import ihc4bc, is_ihc4bc, patch_of
from past_vihc.data.pairs import PairError, PairNotFoundError
from past_vihc.data.reading import read_layout
from past_vihc.data.split import split_cases

NAMES = [f"BC_{case}_0_0_{column}" for case in (7, 12, 101) for column in (0, 1)]


def write(root: Path, names: list[str] = NAMES, stains: tuple[str, ...] = ("ER",)) -> Path:
    for number, name in enumerate(names):
        image = made_pair(number, 24, 24)[0]
        for stain in stains:
            write_image(root / stain / "HE" / f"{name}.png", image)
            write_image(root / stain / "IHC" / f"{name}.png", 255 - image)
    return root


@given(
    st.text("abc_-.7", max_size=8),
    st.from_regex(r"[A-Za-z0-9.-]{1,6}", fullmatch=True),
    st.tuples(*[st.integers(0, 999)] * 3),
    st.sampled_from([".png", ".PNG", ".jpg", ".tif"]),
)
def test_the_case_is_in_the_name(prefix: str, case: str, place: tuple[int, int, int], suffix: str) -> None:
    name = f"x{prefix}_{case}_{place[0]}_{place[1]}_{place[2]}{suffix}"
    assert patch_of(Path("anywhere") / name) == (case, *place)


@pytest.mark.parametrize("name", ["P1.png", "P1_0_0.png", "a_1_2_3_x.png", "a_1_2_3_4.txt", "a_1_-2_3_4.png"])
def test_other_names_are_none(name: str) -> None:
    assert patch_of(Path(name)) is None


def test_pairs_by_stain(tmp_path: Path) -> None:
    write(tmp_path, stains=("ER", "Ki67"))
    assert is_ihc4bc(tmp_path)
    pairs = read_layout(tmp_path, stains=("er", "ki67"))
    assert [(p.case, p.stain) for p in pairs[:4]] == [("101", "er"), ("101", "ki67")] * 2
    assert len(pairs) == 2 * len(NAMES)
    for pair in pairs:
        assert pair.he.name == pair.ihc.name
        assert pair.he.parent.parent.name.lower() == pair.ihc.parent.parent.name.lower() == pair.stain
        assert (pair.he.parent.name, pair.ihc.parent.name) == ("HE", "IHC")
    split = split_cases(pairs, fractions=(0.3, 0.3))
    assert [len(split.train), len(split.val), len(split.test)] == [1, 1, 1]


def test_one_folder_of_h_and_e_for_all_stains(tmp_path: Path) -> None:
    image = np.full((3, 8, 8), 9, np.uint8)
    for name in NAMES:
        for folder in ("H&E", "er", "HER2 patches"):
            write_image(tmp_path / folder / f"{name}.png", image)
    pairs = ihc4bc(tmp_path)
    assert {(p.stain, p.he.parent.name, p.ihc.parent.name) for p in pairs} == {
        ("er", "H&E", "er"),
        ("her2", "H&E", "HER2 patches"),
    }
    # What distinguishes the sides may also be in the first part of the name.
    for path in sorted((tmp_path / "er").iterdir()):
        path.rename(path.with_name(f"ER_{path.name}"))
    assert {p.ihc.name.removeprefix("ER_") == p.he.name for p in ihc4bc(tmp_path)} == {True}


def test_what_lacks_its_partner_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    gone = tmp_path / "ER" / "HE" / f"{NAMES[0]}.png"
    gone.unlink()
    with pytest.raises(PairError) as raised:
        ihc4bc(tmp_path)
    assert str(gone) in str(raised.value)
    assert str(tmp_path / "ER" / "IHC" / f"{NAMES[0]}.png") in str(raised.value)
    write(tmp_path)
    stained = tmp_path / "ER" / "IHC" / f"{NAMES[1]}.png"
    stained.unlink()
    with pytest.raises(PairError) as raised:
        ihc4bc(tmp_path)
    assert str(tmp_path / "ER" / "HE" / f"{NAMES[1]}.png") in str(raised.value)
    assert "has no stained patch" in str(raised.value)


def test_folders_that_are_no_ihc4bc(tmp_path: Path) -> None:
    with pytest.raises(PairNotFoundError, match="no such folder of IHC4BC"):
        ihc4bc(tmp_path / "gone")
    with pytest.raises(PairError, match="no pairs of IHC4BC"):
        ihc4bc(tmp_path)
    assert not is_ihc4bc(tmp_path)
    write(tmp_path / "a")
    write_image(tmp_path / "a" / "ER" / "IHC" / "thumbnail.png", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(PairError, match=r"thumbnail\.png: expected a name such as xxx_caseid"):
        ihc4bc(tmp_path / "a")
    write(tmp_path / "b", stains=("P53",))
    with pytest.raises(PairError, match="no folder names what it is; expected HE, or a stain: er, pr"):
        ihc4bc(tmp_path / "b" / "P53" / "IHC")
    write_image(tmp_path / "c" / "HE" / "P1.png", np.zeros((3, 8, 8), np.uint8))
    assert not is_ihc4bc(tmp_path / "c")


def test_labels_come_with_their_pairs_and_discarded_ones_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, stains=("ER", "PR"))
    lines = [f"{NAMES[0]}.png,a,4,0.02,0.3,0.5", f"{NAMES[1]}.png,0,3,0.01,0.02", f"{NAMES[2]}.png,d,5,0.1"]
    (tmp_path / "labels_ER.csv").write_text("\n".join(lines) + "\n")
    with caplog.at_level(logging.WARNING):
        pairs = ihc4bc(tmp_path)
    assert f"1 of {2 * len(NAMES)} pairs are flagged d" in caplog.text
    by_name = {(p.stain, p.he.stem): p for p in pairs}
    assert ("er", NAMES[2]) not in by_name
    assert ("pr", NAMES[2]) in by_name
    assert by_name["pr", NAMES[0]].labels is None
    assert by_name["er", NAMES[3]].labels is None  # no line of it
    labels = by_name["er", NAMES[0]].labels
    assert (labels.flag, labels.n_he, labels.dab.tolist()) == ("a", 4, [0.02, 0.3, 0.5])
    assert by_name["er", NAMES[1]].labels.flag == "0"


def test_a_label_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "labels_ER.csv").write_text(f"{NAMES[0]}.png,x,4,0.02\n")
    with pytest.raises(IhcLabelError, match=r"labels_ER\.csv, line 1: the flag is 'x'"):
        ihc4bc(tmp_path)
