"""Layouts of pairs: what is written is read back, and what is missing is named."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_pairs import made_pair, write_cases, write_image, write_labels
from PIL import Image

from past_core.slides import SlideError
from past_vihc.data.folders import paired_folders, read_pairs
from past_vihc.data.pairs import Pair, PairError, PairNotFoundError, open_pair
from past_vihc.data.reading import read_layout

ODD = ("plain", "two words", "ü–ß", "dots.in.it", "#1 (copy)", "UPPER", "100%")


def tiny(path: Path) -> Path:
    return write_image(path, np.full((3, 8, 8), 128, np.uint8), mpp=None)


def seen(pairs: list[Pair], root: Path) -> list[tuple[str, ...]]:
    def name(path: Path | None) -> str:
        return "" if path is None else str(path.relative_to(root))

    return sorted((pair.case, pair.stain, name(pair.he), name(pair.ihc), name(pair.nuclei)) for pair in pairs)


def test_folders_by_stain_with_odd_names(tmp_path: Path) -> None:
    expected = []
    for number, name in enumerate(ODD):
        he, er = tiny(tmp_path / "he" / f"{name}.png"), tiny(tmp_path / "ER" / f"{name}.tif")
        nuclei = (
            write_labels(tmp_path / "nuclei" / f"{name}.npy", np.ones((8, 8), int)) if number % 2 else None
        )
        expected.append(Pair(name, "er", he, er, nuclei=nuclei))
        if number == 0:
            expected.append(
                Pair(name, "her2", he, tiny(tmp_path / "her2" / f"{name}.PNG".lower()), nuclei=None)
            )
    (tmp_path / "he" / ".hidden.png").write_bytes(b"")
    (tmp_path / "he" / "notes.txt").write_text("not an image")
    assert seen(paired_folders(tmp_path), tmp_path) == seen(expected, tmp_path)


def test_folders_with_a_folder_for_each_case(tmp_path: Path) -> None:
    expected = []
    for case in ODD:
        for name in ("0_0", "0_1"):
            he, ihc = (
                tiny(tmp_path / "he" / case / f"{name}.png"),
                tiny(tmp_path / "pr" / case / f"{name}.png"),
            )
            expected.append(Pair(case, "pr", he, ihc))
    assert seen(paired_folders(tmp_path), tmp_path) == seen(expected, tmp_path)


def test_folders_by_case_with_odd_names(tmp_path: Path) -> None:
    expected = []
    for case in ODD:
        he, nuclei = (
            tiny(tmp_path / case / "he.png"),
            write_labels(tmp_path / case / "nuclei.tif", np.ones((8, 8))),
        )
        stained = {stain: tiny(tmp_path / case / f"ihc_{stain}.png") for stain in ("er", "ki67")}
        expected += [Pair(case, stain, he, ihc, nuclei=nuclei) for stain, ihc in stained.items()]
    assert seen(paired_folders(tmp_path), tmp_path) == seen(expected, tmp_path)


def test_sheet_with_relative_and_absolute_paths(tmp_path: Path) -> None:
    he, ihc = tiny(tmp_path / "a" / "x y.png"), tiny(tmp_path / "elsewhere" / "ä.png")
    table = pd.DataFrame(
        {"Case": [" 007 ", "b"], "stain": ["ER", "Ki67"], "he": ["x y.png", str(he)], "ihc": [str(ihc)] * 2}
    )
    table["mpp"] = ["0.25", ""]
    table.to_csv(tmp_path / "a" / "pairs.csv", index=False)
    for place in (tmp_path / "a", tmp_path / "a" / "pairs.csv"):
        first, second = paired_folders(place)
        assert (first.case, first.stain, first.mpp) == ("007", "er", 0.25)
        assert (second.case, second.stain, second.mpp) == ("b", "ki67", None)
        assert first.he.samefile(second.he)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("case,stain,he\na,er,x.png", "no column 'ihc' among case, stain, he"),
        ("case,stain,he,ihc\n", "no rows"),
        ("case,stain,he,ihc\na,er,x.png,\n", "row 2: the column 'ihc' is empty"),
        (
            "case,stain,he,ihc\na,er,x.png,x.png\n\nb,p53,x.png,x.png",
            "row 4: no stain 'p53'; expected one of er",
        ),
        ("case,stain,he,ihc,mpp\na,er,x.png,x.png,-1", "row 2: mpp '-1' is not a positive number"),
        ("case,stain,he,ihc\na,er,x.png,x.png\nb,ER,x.png,x.png", "listed twice for er"),
        (
            "case,stain,he,ihc\na,er,x.png,gone.png\nb,er,lost.png,x.png",
            "row 2: .*gone.png; row 3: .*lost.png",
        ),
        ("case,stain,he,ihc,nuclei\na,er,x.png,x.png,none.tif", "row 2: .*none.tif"),
    ],
)
def test_a_sheet_says_what_is_wrong_and_where(rows: str, message: str, tmp_path: Path) -> None:
    tiny(tmp_path / "x.png")
    (tmp_path / "pairs.csv").write_text(rows)
    with pytest.raises((PairError, PairNotFoundError), match=message):
        read_pairs(tmp_path / "pairs.csv")


def test_missing_partners_are_named_with_what_they_lack(tmp_path: Path) -> None:
    lonely = tiny(tmp_path / "one" / "he" / "a b.png")
    tiny(tmp_path / "one" / "er" / "other.png")
    tiny(tmp_path / "one" / "he" / "other.png")
    with pytest.raises(PairError) as raised:
        paired_folders(tmp_path / "one")
    assert str(lonely) in str(raised.value)
    assert str(tmp_path / "one" / "er" / "a b") in str(raised.value)
    lonely.unlink()
    stained = tiny(tmp_path / "one" / "er" / "a b.png")
    with pytest.raises(PairError) as raised:
        paired_folders(tmp_path / "one")
    assert str(stained) in str(raised.value)
    assert str(tmp_path / "one" / "he" / "a b") in str(raised.value)
    for present, absent in (("he.png", "ihc_STAIN"), ("ihc_er.png", "he")):
        path = tiny(tmp_path / present[:3] / "case 1" / present)
        with pytest.raises(PairError) as raised:
            paired_folders(tmp_path / present[:3])
        assert str(path) in str(raised.value)
        assert str(path.parent / absent) in str(raised.value)


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(PairNotFoundError, match="no such folder"):
        paired_folders(tmp_path / "gone")
    with pytest.raises(PairError, match=r"no pairs found; expected pairs\.csv"):
        paired_folders(tmp_path)
    tiny(tmp_path / "he" / "a.png"), tiny(tmp_path / "p53" / "a.png")
    with pytest.raises(PairError, match="p53: no stain 'p53'; expected one of er, pr, ki67, her2"):
        paired_folders(tmp_path)
    (tmp_path / "p53").rename(tmp_path / "er")
    tiny(tmp_path / "he" / "a.tif")
    with pytest.raises(PairError, match=r"a\.png and .*a\.tif have one name"):
        paired_folders(tmp_path)


def test_cases_from_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("S1_0_0", "S1_0_1", "S2_0_0"):
        tiny(tmp_path / "he" / f"{name}.png"), tiny(tmp_path / "er" / f"{name}.png")
    with caplog.at_level(logging.WARNING):
        assert len({pair.case for pair in paired_folders(tmp_path)}) == 3
    assert "without the numbers at the end are only 2" in caplog.text
    assert "case_pattern" in caplog.text
    caplog.clear()
    cases = [pair.case for pair in paired_folders(tmp_path, case_pattern=r"^(S\d+)_")]
    assert cases == ["S1", "S1", "S2"]
    assert not caplog.text
    with pytest.raises(PairError, match="does not fit its name 'S1_0_0'"):
        paired_folders(tmp_path, case_pattern="Q(.)")
    with pytest.raises(PairError, match="no regular expression"):
        paired_folders(tmp_path, case_pattern="(")


def test_stains_are_chosen(tmp_path: Path) -> None:
    write_cases(tmp_path, 1, stains=("er", "her2"), size=16)
    assert [pair.stain for pair in read_layout(tmp_path, stains=("her2",))] == ["her2"]
    with pytest.raises(PairError, match="no pairs of pr; there are pairs of er, her2"):
        read_layout(tmp_path, stains=("er", "pr"))
    with pytest.raises(PairError, match="of the embedded default"):
        read_layout(tmp_path, stains=("er",), misalignment_um=2.0)
    with pytest.raises(PairError, match=r"data\.layout 'zip'"):
        read_layout(tmp_path, "zip", stains=("er",))


def test_images_that_are_no_pair(tmp_path: Path) -> None:
    he, ihc, _ = made_pair(0, 40, 60)
    good = write_image(tmp_path / "he.tif", he)
    grey, deep = tmp_path / "grey.png", tmp_path / "deep.png"
    Image.fromarray(he[0]).save(grey)
    Image.fromarray(he[0].astype(np.uint16) * 256).save(deep)
    for path in (grey, deep):
        with pytest.raises(SlideError, match=f"{path.name}.*expected 8-bit"):
            open_pair(Pair("a", "er", good, path), source_mpp=0.5)
    with pytest.raises(PairNotFoundError, match=r"a er .*ER image .*gone\.png does not exist"):
        open_pair(Pair("a", "er", good, tmp_path / "gone.png"))
    plain = write_image(tmp_path / "plain.png", ihc)
    with pytest.raises(PairError, match=r"plain\.png does not state its resolution.*data\.source_mpp"):
        open_pair(Pair("a", "er", good, plain))
    with pytest.raises(PairError, match=r"shows 30\.0 x 20\.0 µm .*15\.0 x 10\.0 µm"):
        open_pair(Pair("a", "er", good, write_image(tmp_path / "finer.tif", ihc, mpp=0.25)))
    opened = open_pair(Pair("a", "er", good, plain), source_mpp=0.5)
    assert opened.field_um == (20.0, 30.0)
    half = write_image(tmp_path / "half.tif", he[:, ::2, ::2], mpp=1.0)
    assert open_pair(Pair("a", "er", half, good)).field_um == (20.0, 30.0)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    he, _, _ = made_pair(0, 16, 16)
    alpha = np.full((1, 16, 16), 255, np.uint8)
    alpha[:, :8] = 0
    clear = tmp_path / "clear.png"
    Image.fromarray(np.concatenate([he, alpha]).transpose(1, 2, 0)).save(clear)
    opened = open_pair(Pair("a", "er", clear, clear), source_mpp=0.5)
    image = opened.he.read(0, 0, 0, 16, 16)
    assert (image[:, :8] == 255).all()
    assert np.array_equal(image[:, 8:], he[:, 8:])
