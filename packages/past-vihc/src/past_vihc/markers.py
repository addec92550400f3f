"""The stains that past-vihc knows: what each marks, where, and by which thresholds it is scored."""

from dataclasses import dataclass
from typing import Literal

from past_core.errors import PastError


class MarkerError(PastError, ValueError):
    """A stain that is not known, or one without a nuclear H-score."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """One immunohistochemical marker.

    Attributes:
        name: how it is asked for.
        label: as it is printed.
        compartment: where its DAB lies.
        gene: symbol of the gene whose protein it shows.
        presets: thresholds that were published for it, by name, the first being the nearest to the paper's.
        why_no_hscore: why no nuclear H-score is made of it; None where one is.
    """

    name: str
    label: str
    compartment: Literal["nucleus", "membrane"]
    gene: str
    presets: tuple[str, ...] = ()
    why_no_hscore: str | None = None


MARKERS = {
    marker.name: marker
    for marker in (
        Marker(name="er", label="ER", compartment="nucleus", gene="ESR1", presets=("ihc4bc-er", "qupath")),
        Marker(name="pr", label="PR", compartment="nucleus", gene="PGR", presets=("ihc4bc-pr", "qupath")),
        Marker(
            name="ki67", label="Ki67", compartment="nucleus", gene="MKI67", presets=("ihc4bc-ki67", "qupath")
        ),
        Marker(
            name="her2",
            label="HER2",
            compartment="membrane",
            gene="ERBB2",
            why_no_hscore=(
                "HER2 lies in the membrane and is scored 0 to 3+ by the completeness of membranous staining; "
                "the mean over a nucleus says nothing about it"
            ),
        ),
    )
}
"""Markers by name."""


def marker(name: str) -> Marker:
    """Looks a marker up by name, in any case of letters.

    Raises:
        MarkerError: no such marker.
    """
    found = MARKERS.get(name.strip().lower())
    if found is None:
        raise MarkerError(f"no stain {name!r}; expected one of {', '.join(MARKERS)}")
    return found


def nuclear_marker(name: str) -> Marker:
    """Looks up a marker that has a nuclear H-score.

    Raises:
        MarkerError: no such marker, or one whose H-score is not defined, and why.
    """
    found = marker(name)
    if found.why_no_hscore is not None:
        raise MarkerError(f"{found.label} has no nuclear H-score: {found.why_no_hscore}")
    return found
