"""Keypoint files: the vendor's form, one region a file or a column; what is wrong is named with its place."""

import pytest

from past_core.registration.keypoints import KeypointError, KeypointNotFoundError, read_keypoints

HEADER = "fixedX,fixedY,alignmentX,alignmentY"


def written(folder, text, name="a.csv"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_one_file_a_region(tmp_path):
    a = written(tmp_path, f"{HEADER}\n1,2,3,4\n5,6,7,8.5\n")
    b = written(tmp_path, f"\ufeff{HEADER}\r\n\r\n11,12,13,14\r\n15,16,17,18\r\n", "b.csv")
    first, second = read_keypoints([a, b])
    assert (first.name, second.name) == ("a", "b")
    assert first.fixed_px.tolist() == [[1, 2], [5, 6]]
    assert first.he_px.tolist() == [[3, 4], [7, 8.5]]
    assert second.places == ("b.csv line 3", "b.csv line 4")


def test_one_file_with_a_column(tmp_path):
    rows = ["top,1,2,3,4,", "low,9,10,11,12,", "top,5,6,7,8,good", "low,13,14,15,16,"]
    path = written(tmp_path, "\n".join(['region,alignmentX,"alignmentY",fixedX, fixedY,note', *rows]))
    top, low = read_keypoints([path])
    assert (top.name, low.name) == ("top", "low")
    assert top.he_px.tolist() == [[1, 2], [5, 6]]
    assert low.fixed_px.tolist() == [[11, 12], [15, 16]]
    assert low.places == ("a.csv line 3", "a.csv line 5")


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    one = written(tmp_path, f"{HEADER}\n1,2,3,4\n5,6,7,8\n", "one/keypoints.csv")
    two = written(tmp_path, f"{HEADER}\n11,12,13,14\n15,16,17,18\n", "two/keypoints.csv")
    assert [found.name for found in read_keypoints([one, two])] == ["one/keypoints", "two/keypoints"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEADER}\n1,2,3,4\n5,x,7,8\n", ["line 3", "column fixedY", "'x'", "correct or delete"]),
        (f"{HEADER}\n1,2,3,4\n5,,7,8\n", ["line 3", "column fixedY", "''"]),
        (f"{HEADER}\n1,2,nan,4\n5,6,7,8\n", ["line 2", "column alignmentX", "finite"]),
        (f"{HEADER}\n1,2,3,4\n5,6,7,inf\n", ["line 3", "column alignmentY"]),
        (f"{HEADER}\n1,2,3,4\n5,6,7\n", ["line 3", "3 values for 4 columns"]),
        (f"{HEADER}\n", ["no pairs below its header"]),
        ("", ["no column fixedX"]),
        (f"{HEADER}\n1,2,3,4\n", ["one pair", "at least 2"]),
        (f"{HEADER}\n1,2,3,4\n5,6,7,8\n1,2,3,4\n", ["a.csv line 4 repeats fixedX, fixedY of a.csv line 2"]),
        (f"{HEADER}\n1,2,3,4\n5,6,3,4\n", ["line 3 repeats alignmentX, alignmentY of a.csv line 2"]),
        (
            "x,y,alignmentX,alignmentY\n1,2,3,4\n",
            ["no column fixedX, fixedY among x, y", "expected a header"],
        ),
        ("fixedX;fixedY;alignmentX;alignmentY\n1;2;3;4\n", ["semicolons"]),
        ("1,0,0\n0,1,0\n0,0,1\n", ["3x3 matrix", "--matrix"]),
        (f"{HEADER},fixedX\n1,2,3,4,5\n", ["fixedX is there more than once"]),
        (f"{HEADER},region\n1,2,3,4,\n5,6,7,8,a\n", ["line 2", "column region"]),
        (b"\xff\xfe\x00\x01", ["not a text file"]),
        (HEADER + '\n"' + "1" * 200_000 + '",2,3,4\n', ["not readable as CSV"]),
        (b"1," * 2**23 + b"1", ["16,777,217 bytes", "at most"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(KeypointError) as caught:
        read_keypoints([path])
    assert "a.csv" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_files_that_contradict_one_another(tmp_path):
    a = written(tmp_path, f"{HEADER},region\n1,2,3,4,R\n5,6,7,8,R\n")
    b = written(tmp_path, f"{HEADER},region\n11,2,13,4,R\n15,6,17,8,R\n", "b.csv")
    with pytest.raises(KeypointError, match="region 'R' is in"):
        read_keypoints([a, b])
    with pytest.raises(KeypointError, match="given twice"):
        read_keypoints([a, tmp_path / "." / "a.csv"])
    c = written(tmp_path, f"{HEADER}\n1,2,33,4\n15,6,17,8\n", "c.csv")
    with pytest.raises(KeypointError, match=r"c.csv line 2 repeats fixedX, fixedY of a.csv line 2"):
        read_keypoints([a, c])
    with pytest.raises(KeypointNotFoundError, match="no such file"):
        read_keypoints([tmp_path / "none.csv"])
    with pytest.raises(KeypointNotFoundError, match="no such file"):
        read_keypoints([tmp_path])
    with pytest.raises(KeypointError, match="no keypoint files"):
        read_keypoints([])
