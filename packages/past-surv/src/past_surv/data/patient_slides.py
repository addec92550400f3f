"""The slides of one patient with their bags, as a network of one patient reads them: one after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from past_core.errors import PastError
from past_surv.data.bags import Bag, BagError, BagFolder, read_bag, slide_name

if TYPE_CHECKING:
    from past_surv.data.cohort import Cohort


class PatientSlideError(PastError, ValueError):
    """A slide that no patient has, or bags that do not go together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PatientSlides:
    """Bags of one patient.

    Attributes:
        bags: of all slides that have one; the asked slide's is among them.
        shown: number of the asked slide's bag.
        absent: names of the patient's slides without a bag.
    """

    bags: tuple[Bag, ...]
    shown: int
    absent: tuple[str, ...] = ()

    def features(self) -> np.ndarray:
        """`(M, D)` float32 patches of all slides, one after another."""
        total = sum(bag.patches for bag in self.bags)
        values = np.empty((total, self.bags[0].dim), np.float32)
        done = 0
        for bag in self.bags:
            values[done : done + bag.patches] = bag.features()
            done += bag.patches
        return values

    @property
    def part(self) -> slice:
        """Where the asked slide's patches are among all."""
        start = sum(bag.patches for bag in self.bags[: self.shown])
        return slice(start, start + self.bags[self.shown].patches)


def case_of_slide(cohort: "Cohort", slide: str) -> str:
    """The case to whom a slide belongs.

    Args:
        cohort: the patients.
        slide: its name, with or without a slide's ending.

    Raises:
        PatientSlideError: none has it.
    """
    name = slide_name(slide)
    for case, slides in cohort.slides.items():
        if name in {slide_name(own) for own in slides}:
            return str(case)
    known = next((own for slides in cohort.slides.values() for own in slides), "none")
    raise PatientSlideError(
        f"{cohort.name}: no case has a slide {name} (a slide of its own is {known}); name the patient "
        "with --case"
    )


def patient_slides(bag: Path, slide: str, slides: Sequence[str] = ()) -> PatientSlides:
    """Finds a patient's bags.

    Args:
        bag: the slide's own bag, or the folder with the bags of all slides.
        slide: name of the slide that is asked for.
        slides: names of all the patient's slides; those without a bag are listed.

    Raises:
        PatientSlideError: the folder has no bag of the slide.
        BagError, BagNotFoundError: see `read_bag` and `BagFolder`.
    """
    name = slide_name(slide)
    others = [own for own in dict.fromkeys(map(slide_name, slides)) if own != name]
    if bag.is_file() or bag.suffix == ".zarr":
        return PatientSlides(bags=(read_bag(bag),), shown=0, absent=tuple(others))
    folder = BagFolder(bag)
    own = folder.find(slide)
    if own is None:
        raise PatientSlideError(
            f"{bag}: no bag of slide {name}; it has {len(folder)}, such as {', '.join(folder.slides[:3])}"
        )
    found = {other: folder.find(other) for other in others}
    bags = (own, *(b for b in found.values() if b is not None))
    return PatientSlides(bags=bags, shown=0, absent=tuple(o for o, b in found.items() if b is None))


def check_encoder(bag: Bag, manifest: dict[str, Any]) -> None:
    """Refuses the patches of another encoder than a network was trained on.

    Raises:
        BagError: another width, or another encoder's fingerprint.
    """
    dim, wanted = manifest["patch_dim"], manifest.get("encoder_fingerprint")
    found = bag.manifest.get("fingerprint")
    name = manifest.get("encoder") or "an encoder that it does not name"
    if bag.dim != dim or (wanted and found and wanted != found):
        raise BagError(
            f"{bag.path}: {bag.dim} wide patches by {bag.encoder or 'an unnamed encoder'} "
            f"({str(found)[:12]}); the network was trained on {dim} wide patches by {name} "
            f"({str(wanted)[:12]})"
        )
