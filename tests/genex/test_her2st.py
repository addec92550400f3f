"""Real Spatial Transcriptomics sections: places of spots, resolution, and an evaluation between patients."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.her2st import MIN_COUNTS, PITCH_UM, Her2stError, find_her2st, her2st_slides, read_spots

SPOTS = 60
"""Spots taken of each of the two sections."""
COUNTED = 100
"""Genes taken of the counts."""
SMALLER = 8
"""How much smaller section B4's image is made: a fast decoding, and another resolution to be recognised."""


@pytest.fixture(scope="module")
def her2st(shared_data: Path) -> Path:
    """The data set; skips where it is absent."""
    folder = shared_data / "her2st"
    if not folder.is_dir():
        pytest.skip(f"her2st not found in {shared_data}")
    return folder


@pytest.fixture(scope="module")
def slides(her2st: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Stores of A1 and B4 with some of their spots and genes, B4 of a smaller image."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("her2st")
    for name in ("counts", "spots", "images"):
        (folder / name).mkdir()
    for section in ("A1", "B4"):
        (folder / "spots" / f"{section}_selection.tsv").symlink_to(
            her2st / "spots" / f"{section}_selection.tsv"
        )
        counts = pd.read_csv(her2st / "counts" / f"{section}.tsv.gz", sep="\t", index_col=0, nrows=SPOTS)
        frequent = counts.sum().sort_values(ascending=False).index[:COUNTED]
        counts[frequent].to_csv(folder / "counts" / f"{section}.tsv.gz", sep="\t", compression="gzip")
    (folder / "images" / "A1.png").symlink_to(her2st / "images" / "A1.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # 92 Mpx, of which an eighth is decoded
        image = Image.open(her2st / "images" / "B4.jpg")
        image.draft("RGB", (image.width // SMALLER, image.height // SMALLER))
        image.save(folder / "images" / "B4.png", compress_level=0)
        image.close()
    return her2st_slides(folder, sections=("A1", "B4"), cache=folder / "cache")


@pytest.mark.parametrize(
    ("section", "width", "mpp"), [("A1", 2000, 3.19), ("B4", 9272, 0.688), ("C3", 9270, 0.687)]
)
def test_resolution_from_the_pitch_of_the_spots(her2st: Path, section: str, width: int, mpp: float) -> None:
    spots = read_spots(her2st / "spots" / f"{section}_selection.tsv", width)
    assert spots.mpp == pytest.approx(mpp, rel=2e-3)
    # Neighbours of the array in a row or a column lie a pitch apart; the affine fit did not see these pairs.
    places = {tuple(map(int, name.split("x"))): xy for name, xy in spots.places.mul(spots.mpp).T.items()}
    for step in ((1, 0), (0, 1)):
        pairs = [(at, (at[0] + step[0], at[1] + step[1])) for at in places]
        apart = [np.linalg.norm(places[p] - places[q]) for p, q in pairs if q in places]
        assert len(apart) > 100
        assert np.median(apart) == pytest.approx(PITCH_UM, rel=0.03)


def test_spots_lie_on_the_tissue_and_carry_its_counts(slides: list[Path]) -> None:
    from past_core.slides import patches
    from past_core.slides.stored import StoredSlide
    from past_genex.data.slides import ExpressionSlide

    for path, mpp in zip(slides, (3.19, 0.688 * SMALLER), strict=True):
        slide = ExpressionSlide(path)
        image = StoredSlide(slide.store)
        assert slide.store.mpp == pytest.approx(mpp, rel=3e-3)
        assert slide.totals.min() >= MIN_COUNTS

        def stain(centres: np.ndarray, image: StoredSlide = image) -> np.ndarray:
            seen = patches(image, centres, mpp=3.5, size=32).mean(axis=(1, 2, 3))
            return -np.log(seen / 255)

        here = stain(slide.centroids)
        assert here.min() > 0.1, "a spot on glass"
        assert here.max() < 1.5, "a spot on the black mask"
        # Counts are higher where there is more stain; not where the places are mirrored.
        low, high = slide.centroids.min(axis=0), slide.centroids.max(axis=0)
        mirrored = low + high - slide.centroids
        r = [np.corrcoef(np.log(slide.totals), values)[0, 1] for values in (here, stain(mirrored))]
        assert r[0] > max(r[1], 0.15), r


def test_evaluation_between_patients(slides: list[Path], tmp_path: Path) -> None:
    from past_genex.data.slides import ExpressionSlide
    from past_genex.data.splits import leave_patients_out
    from past_genex.data.targets import Target
    from past_genex.evaluation.run import evaluate
    from past_genex.systems.base import Surroundings
    from past_genex.systems.registry import build_system

    opened = [ExpressionSlide(path) for path in slides]
    split = leave_patients_out(opened)
    assert split.leakage().clean
    assert [fold.name for fold in split.folds] == ["A", "B"]
    target = Target("median")
    surroundings = Surroundings(target, cache=tmp_path, device="cpu")
    evaluation = evaluate(
        split, [build_system(name, surroundings) for name in ("mean", "ridge:demo")], target
    )
    mean, ridge = evaluation.scores
    tested = ridge.units.groupby("patient").size()
    assert set(tested.index) == {"A", "B"}
    cells = pd.Series(ridge.moments.n.max(axis=1)).groupby(ridge.units["patient"]).sum()
    assert cells.to_dict() == {slide.patient: slide.n_cells for slide in opened}
    both = np.isfinite(mean.pooled())
    assert both.sum() > COUNTED / 4
    assert (mean.pooled()[both] == 0).all()  # a constant predicts nothing
    r = ridge.pooled()[both]
    assert np.isfinite(r).all()
    assert r.std() > 0.01
    assert abs(r.mean()) < 0.5  # a synthetic encoder on a few real spots: anything above were a leak


def test_absent_data_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.her2st.__file__", str(tmp_path / "a" / "b" / "c" / "her2st.py"))
    monkeypatch.setenv("PAST_SHARED_DATA", str(tmp_path))
    with pytest.raises(Her2stError, match="PAST_SHARED_DATA"):
        find_her2st()
    path = tmp_path / "Z9_selection.tsv"
    path.write_text("x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n1\t1\t1\t1\t9\t9\t1\n")
    with pytest.raises(Her2stError, match="Z9"):
        read_spots(path, 1000)
    path.write_text("x\ty\n1\t1\n")
    with pytest.raises(Her2stError, match="pixel_x"):
        read_spots(path, 1000)
