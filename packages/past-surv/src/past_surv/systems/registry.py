"""Systems by name, for the command line; each says what it needs."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from past_core.errors import PastError
from past_surv.systems.base import SurvivalSystem
from past_surv.systems.combined import CombinedSystem
from past_surv.systems.cox import ClinicalCox, GeneCoxnet
from past_surv.systems.mcat import McatSystem
from past_surv.systems.mil import MilSystem
from past_surv.systems.snn import GeneSNN
from past_surv.systems.trained import Training

if TYPE_CHECKING:
    import pandas as pd

    from past_surv.data.bags import BagFolder

Input = Literal["clinical", "omics", "bags", "vectors"]


class UnknownSystemError(PastError, ValueError):
    """No system of that name, or no such option of it."""


class MissingInputError(PastError, ValueError):
    """A system without what it learns from."""


@dataclass(frozen=True, kw_only=True)
class SystemEntry:
    """A system that can be built by name.

    Attributes:
        about: one line on what it is.
        needs: what it reads: `clinical` and `omics` are columns of the cohort; `bags`, a folder of slides'
            patches, and `vectors`, one a patient, are given when it is built.
        make: from what was given (only what it takes) and its options to the system.
        options: names that may be given to `make_system`.
    """

    about: str
    needs: tuple[Input, ...]
    make: Callable[..., SurvivalSystem]
    options: tuple[str, ...]

    @property
    def by_encoder(self) -> bool:
        """Whether its predictions depend on the encoder of the slides."""
        return "bags" in self.needs


def _options(kind: type, *inputs: str) -> tuple[str, ...]:
    """Keyword arguments of a class that are options, not inputs."""
    return tuple(name for name in inspect.signature(kind).parameters if name not in inputs)


def _clinical_and_genes(
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    columns: Sequence[str] | None = None,
    **options: Any,
) -> CombinedSystem:
    return CombinedSystem([ClinicalCox(), GeneSNN(columns, groups=groups, **options)])


GENES = ("groups", "columns")
TRAINING = tuple(field.name for field in fields(Training))
SYSTEMS: dict[str, SystemEntry] = {
    "cox-age-sex": SystemEntry(
        about="Cox on age and sex: the floor that everything has to beat",
        needs=("clinical",),
        make=ClinicalCox,
        options=(),
    ),
    "coxnet": SystemEntry(
        about="Cox with an elastic net on the genes, its strength chosen inside the training fold",
        needs=("omics",),
        make=GeneCoxnet,
        options=_options(GeneCoxnet, *GENES),
    ),
    "snn": SystemEntry(
        about="self-normalising network on the genes",
        needs=("omics",),
        make=GeneSNN,
        options=_options(GeneSNN, *GENES),
    ),
    "clinical+omics": SystemEntry(
        about="mean rank of Cox on age and sex and of the network on the genes",
        needs=("clinical", "omics"),
        make=_clinical_and_genes,
        options=_options(GeneSNN, *GENES),
    ),
    "mil": SystemEntry(
        about="gated attention over the patches of the slides",
        needs=("bags",),
        make=MilSystem,
        options=("width", *TRAINING),
    ),
    "mcat": SystemEntry(
        about="MCAT: groups of genes that attend to the patches of the slides",
        needs=("omics", "bags"),
        make=McatSystem,
        options=("fusion", "width", *TRAINING),
    ),
    "past-multi": SystemEntry(
        about="MCAT with the patient's mean PAST cell as one more group",
        needs=("omics", "bags", "vectors"),
        make=McatSystem,
        options=("fusion", "width", *TRAINING),
    ),
}
"""Every system by its name."""


def entry(name: str) -> SystemEntry:
    """What is known of a system.

    Raises:
        UnknownSystemError: no such system.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    near = difflib.get_close_matches(name, SYSTEMS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UnknownSystemError(f"no system {name!r}{hint}; expected one of {', '.join(SYSTEMS)}")


def make_system(
    name: str,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    columns: Sequence[str] | None = None,
    bags: "BagFolder | None" = None,
    vectors: "pd.DataFrame | None" = None,
    **options: Any,
) -> SurvivalSystem:
    """A system by name. What it does not need of the inputs is left aside, so that all may be given to all.

    Args:
        name: one of `SYSTEMS`.
        groups: symbols of genes by group; null takes all genes of the cohort.
        columns: of the cohort's omics, for systems on genes without groups; null takes those of `groups`.
        bags: patches of the slides.
        vectors: one a patient, by case id, for PAST-multi.
        options: of the system; see `entry(name).options`.

    Raises:
        UnknownSystemError: no such system, or no such option of it.
        MissingInputError: bags or vectors that it needs were not given.
    """
    known = entry(name)
    strange = [option for option in options if option not in known.options]
    if strange:
        listed = ", ".join(known.options) or "it has none"
        raise UnknownSystemError(f"{name} has no option {strange[0]!r}; its options: {listed}")
    given: dict[str, Any] = {"groups": groups, "columns": columns, "bags": bags, "vectors": vectors}
    for need, remedy in (
        ("bags", "a folder of patches; make it with `past bags SHEET -o DIR`"),
        ("vectors", "a table of one vector a patient; make it with `past vectors COHORT -o FILE`"),
    ):
        if need in known.needs and given[need] is None:
            raise MissingInputError(f"{name} needs {remedy}")
    inputs: dict[str, Any] = {need: given[need] for need in ("bags", "vectors") if need in known.needs}
    if "omics" in known.needs:
        inputs["groups"] = groups
        if "bags" not in known.needs:
            inputs["columns"] = columns
    return known.make(**inputs, **options)
