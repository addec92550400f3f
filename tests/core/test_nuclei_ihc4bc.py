"""Label files of IHC4BC: lines of any length, and a message with the line's number for what is none."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from past_core.errors import PastError
from past_core.nuclei.ihc4bc import IhcLabelError, IhcLabelNotFoundError, patch_name, read_ihc4bc

NAMES = [f"HE_{case}_1_{row}_0.png" for case in ("17", "18b") for row in (0, 1)]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_lines_of_any_length(tmp_path: Path) -> None:
    path = write(
        tmp_path / "ER.csv",
        f"{NAMES[0]},a,4,0.02,0.31,-0.001",
        "",
        f"{NAMES[1]},0,3,,,",
        f'"{NAMES[2]}", d ,12,0.5',
        f"{NAMES[3]},A,0",
    )
    found = read_ihc4bc(path)
    assert list(found) == NAMES
    assert [labels.flag for labels in found.values()] == ["a", "0", "d", "a"]
    assert [labels.n_he for labels in found.values()] == [4, 3, 12, 0]
    assert [labels.case for labels in found.values()] == ["17", "17", "18b", "18b"]
    np.testing.assert_array_equal(found[NAMES[0]].dab, [0.02, 0.31, -0.001])
    assert [len(labels.dab) for labels in found.values()] == [3, 0, 1, 0]


def test_headings_are_no_patch(tmp_path: Path) -> None:
    path = write(tmp_path / "ER.csv", "image name,flag,nuclei,DAB", f"{NAMES[0]},a,1,0.1")
    assert list(read_ihc4bc(path)) == NAMES[:1]


def test_names_come_apart() -> None:
    assert patch_name("a_b_case7_2_3_4.png") == ("a_b", "case7", 2, 3, 4)
    assert patch_name("case7_2_3_4") == ("", "case7", 2, 3, 4)
    for name in ("a.png", "x_case_1_2.png", "x_case_1_2_three.png", ""):
        with pytest.raises(IhcLabelError, match="xxx_caseid_regionindex_rowindex_colindex"):
            patch_name(name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{NAMES[1]},a", "line 2: 2 fields"),
        (f"{NAMES[1]},x,4,0.1", "line 2: the flag is 'x'; expected a"),
        (f"{NAMES[1]},a,many,0.1", "line 2: 'many' nuclei"),
        (f"{NAMES[1]},a,-1", "line 2: '-1' nuclei"),
        (f"{NAMES[1]},a,2.5", "line 2: '2.5' nuclei"),
        (f"{NAMES[1]},a,inf", "line 2: 'inf' nuclei"),
        (f"{NAMES[1]},a,4,0.1,none,0.2", "line 2, field 5: 'none'"),
        (f"{NAMES[1]},a,4,nan", "line 2, field 4: 'nan'"),
        (f"{NAMES[1]},a,4,,0.2", "line 2, field 4: ''"),
        ("thumbnail.png,a,4,0.1", "line 2: 'thumbnail.png'"),
        (f"{NAMES[0]},a,4,0.1", f"line 2: {NAMES[0]} a second time"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "ER.csv", f"{NAMES[0]},a,1,0.1", line)
    with pytest.raises(IhcLabelError, match=message):
        read_ihc4bc(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(IhcLabelNotFoundError, match="no label file"):
        read_ihc4bc(tmp_path / "none.csv")
    with pytest.raises(IhcLabelError, match="no lines"):
        read_ihc4bc(write(tmp_path / "empty.csv", ""))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(IhcLabelError, match="not text"):
        read_ihc4bc(tmp_path / "binary.csv")


FIELDS = st.one_of(
    st.sampled_from([*NAMES, "a", "0", "d", "", "1e999", "nan", "12", '"']),
    st.floats().map(str),
    st.text(st.characters(codec="utf-8"), max_size=8),
)


@given(rows=st.lists(st.lists(FIELDS, max_size=6), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_our_errors_escape(tmp_path: Path, rows: list[list[str]]) -> None:
    path = tmp_path / "fuzz.csv"
    path.write_text("\n".join(",".join(row) for row in rows), encoding="utf-8")
    try:
        found = read_ihc4bc(path)
    except PastError:
        return
    for labels in found.values():
        assert np.isfinite(labels.dab).all()
        assert labels.n_he >= 0
