"""What belongs to a patient rather than to a cell: latents, receptor status and staining."""

from dataclasses import dataclass

import numpy as np

from past_core.synthetic.cohort import CANCER_TYPES, TissueConfig
from past_core.synthetic.seeding import generator


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What belongs to a patient rather than to a cell.

    Outcomes rendered from the same state take their hazard from `proliferation` and `immunity`, IHC its
    receptor status from `positive`.

    Args:
        proliferation: Standard normal; raises the cells' first state.
        immunity: Standard normal; more immune aggregates and infiltrating T cells.
        positive: Receptor status of the tumour by symbol.
        haematoxylin: Factor on the haematoxylin of the whole slide.
        eosin: Factor on the eosin of the whole slide.
        stains: (2, 3) optical density of red, green and blue at unit concentration of haematoxylin and eosin,
            rows of unit length.
        white: (3,) transmitted intensity of bare glass, at most 255.
    """

    proliferation: float
    immunity: float
    positive: dict[str, bool]
    haematoxylin: float
    eosin: float
    stains: np.ndarray
    white: np.ndarray


# Haematoxylin and eosin as measured by Ruifrok and Johnston (2001), whose eosin is magenta, and as estimated
# by Macenko et al. (2009), whose eosin is salmon: a laboratory's stains lie somewhere between.
RUIFROK = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
MACENKO = np.array([[0.563, 0.720, 0.406], [0.216, 0.801, 0.558]])


def draw_patient(config: TissueConfig) -> Patient:
    """Draws a patient's latents, receptor status and staining."""
    biology = generator(config, "patient")
    proliferation, immunity = np.clip(biology.standard_normal(2), -2, 2)
    odds = CANCER_TYPES[config.cancer_type].positive
    positive = {symbol: bool(biology.random() < share) for symbol, share in odds.items()}

    staining = generator(config, "staining")
    mix = staining.uniform(0.3, 0.95, (2, 1))
    stains = RUIFROK + mix * (MACENKO - RUIFROK) + np.clip(staining.normal(0, 0.015, (2, 3)), -0.03, 0.03)
    stains = np.clip(stains, 0.02, None)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    haematoxylin, eosin = np.exp(np.clip(staining.normal(0, 0.12, 2), -0.25, 0.25))
    white = 243 + staining.uniform(-5, 5) + staining.uniform(-3, 3, 3)
    return Patient(
        proliferation=float(proliferation),
        immunity=float(immunity),
        positive=positive,
        haematoxylin=float(haematoxylin),
        eosin=float(eosin),
        stains=stains,
        white=white,
    )
