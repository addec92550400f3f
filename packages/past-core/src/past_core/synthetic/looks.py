"""What each cell looks like, from its type and state."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_core.synthetic.cohort import CELL_TYPES, TissueConfig
from past_core.synthetic.seeding import generator

STATE_1_RADIUS = 0.16
"""Log nuclear radius per unit of the first state, at full strength; area changes twice as fast."""
STATE_1_EOSIN = 0.20
"""Log eosin of the cytoplasm per unit of the first state."""
STATE_2_HAEMATOXYLIN = 0.18
"""Log haematoxylin of the nucleus per unit of the second state."""
STATE_2_CONTRAST = 0.50
"""Log contrast of the chromatin per unit of the second state."""
PROGRAMME_EOSIN = 0.10
"""Log eosin of the cytoplasm and of the matrix per unit of the spatial programme."""

LOOKS = (
    "nucleus_major_um",
    "nucleus_minor_um",
    "cell_major_um",
    "cell_minor_um",
    "offset_um",
    "irregularity",
    "haematoxylin",
    "contrast",
    "nucleolus",
    "eosin",
    "cytoplasm_haematoxylin",
    "blend",
)
"""Columns of `Tissue.cells` that hold the true look of a cell, beside `angle`, which carries nothing."""


@dataclass(frozen=True, kw_only=True)
class TypeLook:
    """The mean look of one cell type; lengths are semi-axes in µm, stains concentrations."""

    nucleus: tuple[float, float]
    cell: tuple[float, float]
    offset: float = 0.0
    irregularity: float = 0.03
    haematoxylin: float = 1.0
    contrast: float = 0.22
    nucleolus: float = 0.0
    eosin: float = 0.5
    cytoplasm_haematoxylin: float = 0.08
    blend: float = 0.0


NEUTRAL = TypeLook(nucleus=(3.5, 3.5), cell=(6.4, 6.4))
"""What every cell looks like at strength zero."""

TYPE_LOOKS = {
    "tumour": TypeLook(
        nucleus=(4.5, 3.8),
        cell=(9.0, 8.0),
        irregularity=0.06,
        haematoxylin=0.9,
        contrast=0.26,
        nucleolus=0.55,
        eosin=0.55,
        cytoplasm_haematoxylin=0.17,
    ),
    "epithelial": TypeLook(
        nucleus=(4.0, 2.75),
        cell=(10.0, 6.4),
        offset=1.6,
        haematoxylin=0.95,
        contrast=0.22,
        nucleolus=0.15,
        eosin=0.62,
        cytoplasm_haematoxylin=0.06,
    ),
    "fibroblast": TypeLook(
        nucleus=(5.4, 1.65),
        cell=(9.5, 2.9),
        irregularity=0.02,
        haematoxylin=1.05,
        contrast=0.18,
        eosin=0.5,
        blend=0.9,
    ),
    "endothelial": TypeLook(
        nucleus=(4.4, 1.75),
        cell=(7.6, 3.2),
        irregularity=0.02,
        haematoxylin=1.2,
        contrast=0.15,
        eosin=0.48,
        blend=0.4,
    ),
    "t_cell": TypeLook(
        nucleus=(2.95, 2.75),
        cell=(3.8, 3.6),
        haematoxylin=1.55,
        contrast=0.26,
        eosin=0.32,
        cytoplasm_haematoxylin=0.1,
    ),
    "b_cell": TypeLook(
        nucleus=(3.3, 3.1),
        cell=(4.4, 4.2),
        haematoxylin=1.3,
        contrast=0.33,
        eosin=0.3,
        cytoplasm_haematoxylin=0.16,
    ),
    "macrophage": TypeLook(
        nucleus=(3.9, 2.5),
        cell=(7.6, 6.4),
        offset=1.0,
        irregularity=0.06,
        haematoxylin=0.75,
        contrast=0.2,
        eosin=0.42,
        cytoplasm_haematoxylin=0.03,
        blend=0.5,
    ),
    "plasma": TypeLook(
        nucleus=(2.9, 2.75),
        cell=(5.8, 4.6),
        offset=1.6,
        haematoxylin=1.45,
        contrast=0.5,
        eosin=0.55,
        cytoplasm_haematoxylin=0.34,
        blend=0.2,
    ),
    "mast": TypeLook(
        nucleus=(2.7, 2.5),
        cell=(5.8, 5.2),
        haematoxylin=1.15,
        contrast=0.2,
        eosin=0.75,
        cytoplasm_haematoxylin=0.4,
        blend=0.2,
    ),
}


def draw_looks(
    config: TissueConfig, cells: pd.DataFrame, candidate: np.ndarray, n_candidates: int
) -> pd.DataFrame:
    """The look of each cell: its type's, moved by its state, scaled by the strength, and noise of its own.

    Args:
        config: The slide.
        cells: `cell_type`, `state_1`, `state_2`, `programme`, `grade` (spread of a nest's pleomorphism).
        candidate: (N,) index of the candidate site of each cell, which keys its noise.
        n_candidates: Number of candidate sites.

    Returns:
        The columns `LOOKS`, (N, 12).
    """
    s = config.morphology
    noise = np.clip(generator(config, "looks").standard_normal((n_candidates, 11)), -2.5, 2.5)[candidate]
    code = cells["cell_type"].cat.codes.to_numpy()
    z1, z2, programme = (cells[c].to_numpy() for c in ("state_1", "state_2", "programme"))

    def scaled(values: list[float], neutral: float) -> np.ndarray:
        """Geometric interpolation between the neutral value and the type's."""
        return np.exp(np.log(neutral) + s * (np.log(np.array(values)[code]) - np.log(neutral)))

    looks = [TYPE_LOOKS[t] for t in CELL_TYPES]
    size = np.exp(s * STATE_1_RADIUS * z1 + 0.04 * noise[:, 0])
    aspect = np.exp(s * 0.07 * noise[:, 1])
    body = np.exp(s * 0.05 * z1 + 0.04 * noise[:, 2])
    eosin = np.exp(s * (STATE_1_EOSIN * z1 + PROGRAMME_EOSIN * programme) + 0.06 * noise[:, 5])
    out = pd.DataFrame(index=cells.index)
    for k, (axis, stretch) in enumerate((("major", aspect), ("minor", 1 / aspect))):
        out[f"nucleus_{axis}_um"] = scaled([t.nucleus[k] for t in looks], NEUTRAL.nucleus[k]) * size * stretch
        out[f"cell_{axis}_um"] = scaled([t.cell[k] for t in looks], NEUTRAL.cell[k]) * body
        # A nucleus always leaves a rim of cytoplasm.
        out[f"cell_{axis}_um"] = np.maximum(out[f"cell_{axis}_um"], 1.12 * out[f"nucleus_{axis}_um"] + 0.35)
    out["offset_um"] = s * np.array([t.offset for t in looks])[code] * np.exp(0.2 * noise[:, 8])
    out["irregularity"] = scaled([t.irregularity for t in looks], NEUTRAL.irregularity) * np.exp(
        0.3 * noise[:, 9]
    )
    out["haematoxylin"] = scaled([t.haematoxylin for t in looks], NEUTRAL.haematoxylin) * np.exp(
        s * STATE_2_HAEMATOXYLIN * z2 + 0.05 * noise[:, 3]
    )
    out["contrast"] = scaled([t.contrast for t in looks], NEUTRAL.contrast) * np.exp(
        s * STATE_2_CONTRAST * z2 + 0.1 * noise[:, 4]
    )
    out["nucleolus"] = s * np.array([t.nucleolus for t in looks])[code] * np.exp(0.3 * noise[:, 6])
    out["eosin"] = scaled([t.eosin for t in looks], NEUTRAL.eosin) * eosin
    out["cytoplasm_haematoxylin"] = scaled(
        [t.cytoplasm_haematoxylin for t in looks], NEUTRAL.cytoplasm_haematoxylin
    ) * np.exp(0.1 * noise[:, 7])
    out["blend"] = np.minimum(s * np.array([t.blend for t in looks])[code] * np.exp(0.2 * noise[:, 10]), 1)
    return out[list(LOOKS)]
