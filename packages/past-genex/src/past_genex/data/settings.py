"""The settings of the paper as splits: within a patient, between patients, between cancer types."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from past_core.errors import PastError
from past_genex.data.fold import Fold, Split
from past_genex.data.regions import RegionError, Regions
from past_genex.data.slides import ExpressionSlide

REGIONS_ACROSS = 6
"""Regions along a slide's longer side where no size is given: enough to resample for an interval."""
UNKNOWN = "unknown"
"""The cancer type of slides whose ingest was told none: no type of its own."""
LEAST_RIMS = 3
"""Least width of a region in rims."""


class SplitError(PastError, ValueError):
    """Slides that cannot be split as asked."""


def intra_patient(
    slides: Sequence[ExpressionSlide],
    *,
    rim_um: float,
    region_um: float | None = None,
    folds: int = 4,
) -> Split:
    """Held-out regions of the same specimens, each patient on its own, all genes of the patient.

    A slide is cut into squares, which are dealt to the folds along a snake through the slide, so that a
    fold's squares are contiguous. The rims of training squares that touch a test square are left out.

    Args:
        slides: the slides.
        rim_um: least distance of training and test cells, the side of the widest field that is compared.
        region_um: side of a square; by default a sixth of the slide, and at least three rims.
        folds: rounds for each patient; every cell is tested in one.

    Raises:
        SplitError: a slide is too small, or given twice.
    """
    slides = _checked(slides, least=1)
    if not rim_um > 0:
        raise SplitError(f"a buffer of {rim_um:g} µm; it must be at least as wide as the encoder's field")
    if folds < 2:
        raise SplitError(f"{folds} folds; at least 2 are needed, one to test and one to train on")
    regions = [_regions(slide, rim_um, region_um) for slide in slides]
    made = []
    for patient, members in _by_patient(slides).items():
        assigned = {i: _deal(slides[i], regions[i], folds) for i in members}
        for k in range(folds):
            train, test = {}, {}
            for i, fold_of in assigned.items():
                held = fold_of == k
                test[i] = np.repeat(held[:, None], 2, axis=1)
                train[i] = np.stack([~held, ~held & ~regions[i].touching(held)], axis=1)
            made.append(Fold(f"{patient} {k + 1}/{folds}", train, test))
    return _built(Split("intra", "intra", slides, tuple(regions), tuple(made), {}, rim_um))


def inter_patient(slides: Sequence[ExpressionSlide], *, region_um: float | None = None) -> Split:
    """Each patient in turn, trained on the other patients of the same cancer type; union of genes.

    Types with one patient, and slides without a type, are left out, by name.

    Raises:
        SplitError: no type has two patients.
    """
    slides = _checked(slides, least=2)
    several, excluded = _types_of_several(slides)
    kept = tuple(slide for slide in slides if slide.cancer_type in several)
    if not kept:
        raise SplitError(
            f"no cancer type has two patients ({_listed(slides)}); add slides of further patients, or say "
            "which slides are of one patient and type (`past ingest --patient --cancer-type`)"
        )
    folds = [
        (patient, [i for i in _by_kind(kept, kind) if i not in held], held)
        for kind in several
        for patient, held in _by_patient(kept, kind).items()
    ]
    regions = _whole(kept, region_um)
    return _built(Split("inter", "inter", kept, regions, _parts(regions, folds), excluded))


def cross_cancer(
    slides: Sequence[ExpressionSlide],
    *,
    variant: Literal["methods", "figure"] = "methods",
    region_um: float | None = None,
) -> Split:
    """Each cancer type in turn, trained on all other types; union of genes.

    The paper describes it twice. Its methods take 24 slides of 6 types: variant "methods", in which types
    with one patient take no part. Its figure says 14 types against one: variant "figure", all types.

    Raises:
        SplitError: fewer than two types, or a patient with several.
    """
    slides = _checked(slides, least=2)
    if variant not in ("methods", "figure"):
        raise SplitError(f"variant {variant!r} of the cross-cancer setting; expected 'methods' or 'figure'")
    several, excluded = _types_of_several(slides)
    if variant == "figure":
        several = sorted({slide.cancer_type for slide in slides} - {UNKNOWN})
        excluded = {kind: why for kind, why in excluded.items() if kind == UNKNOWN}
    kept = tuple(slide for slide in slides if slide.cancer_type in several)
    if len(several) < 2:
        left = "; ".join(f"{kind} ({why})" for kind, why in excluded.items())
        also = f"; left out: {left}" if excluded else ""
        raise SplitError(
            f"{len(several)} cancer types to hold out in turn ({_listed(slides)}){also}; at least 2 are "
            "needed, and variant 'figure' also takes types with one patient"
        )
    for patient, members in _by_patient(kept).items():
        kinds = sorted({kept[i].cancer_type for i in members})
        if len(kinds) > 1:
            raise SplitError(
                f"patient {patient} has slides of {' and '.join(kinds)} and would train and test at once; "
                "leave one of them out"
            )
    folds = [
        (kind, [i for i in range(len(kept)) if i not in held], held)
        for kind in several
        for held in [_by_kind(kept, kind)]
    ]
    regions = _whole(kept, region_um)
    return _built(Split(f"cross-{variant}", "cross", kept, regions, _parts(regions, folds), excluded))


def leave_patients_out(slides: Sequence[ExpressionSlide], *, region_um: float | None = None) -> Split:
    """Each patient in turn, trained on all others whatever their cancer type.

    Raises:
        SplitError: there is one patient only.
    """
    slides = _checked(slides, least=2)
    patients = _by_patient(slides)
    if len(patients) < 2:
        raise SplitError(
            f"all {len(slides)} slides are of one patient ({next(iter(patients))}); hold out regions instead "
            "(setting intra), or say which patient each slide is of (`past ingest --patient`)"
        )
    folds = [
        (patient, [i for i in range(len(slides)) if i not in held], held)
        for patient, held in patients.items()
    ]
    regions = _whole(slides, region_um)
    return _built(Split("leave-patients-out", "patients", slides, regions, _parts(regions, folds)))


def random_cells(slides: Sequence[ExpressionSlide], *, folds: int = 4, seed: int = 0) -> Split:
    """Cells dealt at random within each patient: it leaks, and exists to show how much that adds."""
    slides = _checked(slides, least=1)
    small = next((slide for slide in slides if slide.n_cells < folds), None)
    if small is not None or folds < 2:
        where = f"slide {small.name} has {small.n_cells} cells" if small is not None else "one fold"
        raise SplitError(f"{where}; random cells need at least 2 folds and as many cells")
    regions = [Regions.random(slide.n_cells, regions=folds, seed=seed + i) for i, slide in enumerate(slides)]
    made = []
    for patient, members in _by_patient(slides).items():
        for k in range(folds):
            held = np.repeat((np.arange(folds) == k)[:, None], 2, axis=1)
            made.append(
                Fold(
                    f"{patient} {k + 1}/{folds}", dict.fromkeys(members, ~held), dict.fromkeys(members, held)
                )
            )
    return _built(Split("random", "random", slides, tuple(regions), tuple(made)))


# --- parts --------------------------------------------------------------------------------------------------

_Members = tuple[str, list[int], list[int]]
"""Name, training slides and test slides of a fold."""


def _built(split: Split) -> Split:
    """Refuses a split with a fold that has nothing to train on, to test, or to predict."""
    for fold in split.folds:
        for side, parts in (("train on", fold.train), ("test", fold.test)):
            if not split.cells(parts):
                raise SplitError(
                    f"split {split.name}, fold {fold.name}: no cell is left to {side}; use larger slides, a "
                    "smaller field, or fewer folds"
                )
        known = {gene for i in fold.train for gene in split.slides[i].genes}
        strange = [split.slides[i].name for i in fold.test if known.isdisjoint(split.slides[i].genes)]
        if strange:
            train, test = ", ".join(split.slides[i].name for i in fold.train), ", ".join(strange)
            raise SplitError(
                f"split {split.name}, fold {fold.name}: the training slides ({train}) and the test slides "
                f"({test}) have no gene in common; use slides of overlapping panels, and ids of one kind"
            )
    return split


def _parts(regions: Sequence[Regions], folds: list[_Members]) -> tuple[Fold, ...]:
    everything = [each.everything() for each in regions]
    return tuple(
        Fold(name, {i: everything[i] for i in train}, {i: everything[i] for i in test})
        for name, train, test in folds
    )


def _whole(slides: Sequence[ExpressionSlide], region_um: float | None) -> tuple[Regions, ...]:
    """Squares without rims: whole slides train or test, their regions serve for intervals."""
    return tuple(_regions(slide, 0.0, region_um) for slide in slides)


def _regions(slide: ExpressionSlide, rim_um: float, region_um: float | None) -> Regions:
    extent = float(np.ptp(slide.xy_um, axis=0).max())
    size = max(extent / REGIONS_ACROSS, LEAST_RIMS * rim_um, 1.0) if region_um is None else region_um
    try:
        regions = Regions.spatial(slide.xy_um, size_um=size, rim_um=rim_um)
    except RegionError as error:
        raise SplitError(f"slide {slide.name}: {error}") from error
    if rim_um and regions.n_regions < 2:
        raise SplitError(
            f"slide {slide.name} is {extent:.0f} µm wide: less than two regions of {size:.0f} µm with a rim "
            f"of {rim_um:g} µm; hold out regions of larger slides only, or use an encoder of a smaller field"
        )
    return regions


def _deal(slide: ExpressionSlide, regions: Regions, folds: int) -> np.ndarray:
    """`(R,)` fold of every region: along a snake through the slide, of even numbers of cells."""
    if regions.n_regions < folds:
        raise SplitError(
            f"slide {slide.name} has {regions.n_regions} regions for {folds} folds; use fewer folds, or "
            "smaller regions"
        )
    row, column = regions.place.T
    order = np.lexsort((np.where(row % 2 == 0, column, -column), row))
    sizes = regions.sizes().sum(axis=1)[order]
    middle = np.cumsum(sizes) - sizes / 2
    fold = np.minimum((middle / sizes.sum() * folds).astype(np.int64), folds - 1)
    # A crowded region must not leave a fold without any: each fold takes at least its rank's turn.
    rank = np.arange(len(order))
    fold = np.clip(np.maximum.accumulate(fold), np.maximum(0, folds - len(order) + rank), rank)
    fold = (
        np.unique(fold, return_inverse=True)[1]
        if len(np.unique(fold)) == folds
        else rank * folds // len(order)
    )
    out = np.empty(len(order), np.int64)
    out[order] = fold
    return out


def _checked(slides: Sequence[ExpressionSlide], *, least: int) -> tuple[ExpressionSlide, ...]:
    slides = tuple(slides)
    if len(slides) < least:
        found = f"one slide ({slides[0].name})" if slides else "no slide"
        raise SplitError(
            f"{found}; this setting needs at least {least}. A single slide can hold out its own regions "
            "(setting intra)"
        )
    names = [slide.name for slide in slides]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SplitError(f"slides {', '.join(twice)} are given twice; every slide has a name of its own")
    seen: dict[str, str] = {}
    for slide in slides:
        places = hashlib.sha256(np.ascontiguousarray(slide.xy_um, np.float64).tobytes()).hexdigest()
        if places in seen:
            raise SplitError(
                f"slides {seen[places]} and {slide.name} have the same cells at the same places: one slide "
                "under two names would train and test; give it once"
            )
        seen[places] = slide.name
    return slides


def _by_patient(slides: Sequence[ExpressionSlide], kind: str | None = None) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for i, slide in enumerate(slides):
        if kind is None or slide.cancer_type == kind:
            out.setdefault(slide.patient, []).append(i)
    return out


def _by_kind(slides: Sequence[ExpressionSlide], kind: str) -> list[int]:
    return [i for i, slide in enumerate(slides) if slide.cancer_type == kind]


def _types_of_several(slides: Sequence[ExpressionSlide]) -> tuple[list[str], dict[str, str]]:
    """Types with at least two patients, and the others with the reason."""
    kinds = sorted({slide.cancer_type for slide in slides})
    patients = {kind: sorted(_by_patient(slides, kind)) for kind in kinds}
    several = [kind for kind in kinds if len(patients[kind]) > 1]
    excluded = {kind: f"one patient, {patients[kind][0]}" for kind in kinds if len(patients[kind]) == 1}
    if UNKNOWN in kinds:
        names = ", ".join(slides[i].name for i in _by_kind(slides, UNKNOWN))
        excluded[UNKNOWN] = f"no cancer type was stated at ingest of {names}"
        several = [kind for kind in several if kind != UNKNOWN]
    return several, excluded


def _listed(slides: Sequence[ExpressionSlide]) -> str:
    kinds = sorted({slide.cancer_type for slide in slides})
    return "; ".join(f"{kind}: {', '.join(sorted(_by_patient(slides, kind)))}" for kind in kinds)
