"""Who is in the cohort: case id, slides, age, site, and the latents that nobody measures."""

from dataclasses import dataclass

import numpy as np

from past_core.synthetic.seeding import generator

CANCER_TYPE, ONCOTREE = "lung", "LUAD"
"""The simulator's cancer type, and what the table calls it."""

SITES = 12
"""Tissue source sites; each stains in its own way."""

SECOND_SLIDE = 10
"""Every so many-th patient has a second slide."""

LATENT_SPREAD = (3.5, 2.5)
"""Standard deviations of proliferation and immunity: wider than a pretraining patient's, which is 1, so that
what they do to nuclei and lymphocytes stands out from a small section's own variation."""

_CLIP = 2.4


@dataclass(frozen=True, kw_only=True)
class Person:
    """One patient.

    Attributes:
        number: from 1 on; a patient is the same whoever else is in the cohort.
        seed: of the cohort.
        case: case id.
        age: in whole years.
        is_female: whether.
        site: name of the tissue source site.
        proliferation: enlarges the nuclei of tumour cells.
        immunity: more lymphocytes.
        gene_latent: standard normal; moves the RNA of two groups and nothing that can be seen.
    """

    number: int
    seed: int
    case: str
    age: int
    is_female: bool
    site: str
    proliferation: float
    immunity: float
    gene_latent: float

    @property
    def patient(self) -> str:
        """What its random streams are keyed by."""
        return self.case

    @property
    def slides(self) -> tuple[str, ...]:
        """Names of its diagnostic slides, as barcodes have them."""
        count = 2 if self.number % SECOND_SLIDE == 0 else 1
        return tuple(f"{self.case}-01Z-00-DX{k + 1}" for k in range(count))


@dataclass(frozen=True)
class _Key:
    seed: int
    patient: str


def draw_person(number: int, *, seed: int) -> Person:
    """Draws one patient of the cohort."""
    case = f"SYN-{number:04}"
    stream = generator(_Key(seed, case), "person")
    proliferation, immunity = np.array(LATENT_SPREAD) * np.clip(stream.standard_normal(2), -_CLIP, _CLIP)
    return Person(
        number=number,
        seed=seed,
        case=case,
        age=round(float(np.clip(stream.normal(64, 10), 35, 89))),
        is_female=bool(stream.random() < 0.5),
        site=f"S{stream.integers(SITES) + 1:02}",
        proliferation=float(proliferation),
        immunity=float(immunity),
        gene_latent=float(stream.standard_normal()),
    )
