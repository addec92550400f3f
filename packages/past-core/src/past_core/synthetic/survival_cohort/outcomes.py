"""The known hazard, and times of death and of censoring that follow it."""

from collections.abc import Mapping, Sequence

import numpy as np

from past_core.synthetic.seeding import generator
from past_core.synthetic.survival_cohort.people import Person

LOG_HAZARD = {"image": 1.1, "gene": 0.7, "age": 0.35}
"""Change of the log hazard per unit of each score. Of the true log hazard they make a C-index of about 0.78,
of the image's part alone 0.7."""

ATYPIA = (3.97, 0.267)
"""Mean and deviation over patients of the mean log nuclear area of tumour cells, in log µm²."""

INFILTRATION = (0.38, 0.57)
"""Mean and deviation over patients of the log of lymphocytes to tumour cells."""

AGE = (64.0, 10.0)
"""Mean and deviation of age in years."""

SHAPE, SCALE_MONTHS = 1.2, 42.0
"""Of the Weibull times at log hazard 0."""

CENSORING_MONTHS = (4.0, 84.0)
"""Follow-up ends evenly in between, whatever the hazard."""


def image_score(shown: Sequence[Mapping[str, float]]) -> float:
    """What can be seen in the H&E: large nuclei of tumour cells, and few lymphocytes for each of them.

    Standardised with constants, so that a patient's score depends on no other patient.

    Args:
        shown: `sections.visible` of each slide of the patient.
    """
    total = {name: sum(slide[name] for slide in shown) for name in shown[0]}
    area = total["log_nuclear_area"] / max(total["tumour"], 1) if total["tumour"] else ATYPIA[0]
    ratio = np.log((total["lymphocytes"] + 0.02 * total["cells"]) / (total["tumour"] + 0.02 * total["cells"]))
    atypia = (area - ATYPIA[0]) / ATYPIA[1]
    infiltration = (ratio - INFILTRATION[0]) / INFILTRATION[1]
    return float((atypia - infiltration) / np.sqrt(2))


def age_score(age: float) -> float:
    """Age, standardised with constants."""
    return (age - AGE[0]) / AGE[1]


def log_hazard(*, image: float, gene: float, age: float) -> float:
    """Log of the hazard ratio against a patient whose scores are all 0."""
    return LOG_HAZARD["image"] * image + LOG_HAZARD["gene"] * gene + LOG_HAZARD["age"] * age


def median_months(hazard: float) -> float:
    """Half of the patients with this log hazard live longer."""
    return float(SCALE_MONTHS * (np.log(2) * np.exp(-hazard)) ** (1 / SHAPE))


def draw_times(person: Person, hazard: float) -> tuple[float, float]:
    """Months to death, Weibull with proportional hazards, and months to the end of follow-up."""
    stream = generator(person, "outcome")
    death = SCALE_MONTHS * (stream.exponential() * np.exp(-hazard)) ** (1 / SHAPE)
    return float(death), float(stream.uniform(*CENSORING_MONTHS))
