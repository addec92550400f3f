"""Cancer types, the configuration of one synthetic slide, and a cohort of them."""

from dataclasses import dataclass

from past_core.errors import PastError

SIMULATOR_VERSION = 1
"""Raised whenever the same configuration gives another tissue, count or pixel; a test holds its figures."""

CELL_TYPES = (
    "tumour",
    "epithelial",
    "fibroblast",
    "endothelial",
    "t_cell",
    "b_cell",
    "macrophage",
    "plasma",
    "mast",
)
RARE_TYPES = ("plasma", "mast")
"""Types that stay below 8 % of a slide together."""


class SyntheticError(PastError, ValueError):
    """A configuration that the simulator cannot follow."""


@dataclass(frozen=True, kw_only=True)
class CancerType:
    """What tissue of one cancer type is made of, before a patient's own variation.

    Args:
        nests: Share of the area in tumour nests.
        glands: Share of the area in benign glands.
        aggregates: Share of the area in immune aggregates.
        vessels: Vessels per square millimetre.
        nest_radius_um: Mean radius of a nest.
        nest_lumens: Mean number of lumens in a nest (0: solid growth).
        stroma: Odds of the cell types scattered in the stroma.
        positive: Odds that a patient's tumour is positive for a receptor, by symbol.
    """

    nests: float
    glands: float
    aggregates: float
    vessels: float
    nest_radius_um: float
    nest_lumens: float
    stroma: dict[str, float]
    positive: dict[str, float]


CANCER_TYPES = {
    "breast": CancerType(
        nests=0.27,
        glands=0.15,
        aggregates=0.06,
        vessels=25,
        nest_radius_um=44,
        nest_lumens=0.7,
        stroma={
            "fibroblast": 0.66,
            "t_cell": 0.10,
            "macrophage": 0.12,
            "plasma": 0.04,
            "mast": 0.02,
            "endothelial": 0.06,
        },
        positive={"ESR1": 0.75, "PGR": 0.65, "AR": 0.6, "ERBB2": 0.25},
    ),
    "lung": CancerType(
        nests=0.30,
        glands=0.12,
        aggregates=0.09,
        vessels=35,
        nest_radius_um=48,
        nest_lumens=1.6,
        stroma={
            "fibroblast": 0.50,
            "t_cell": 0.16,
            "macrophage": 0.19,
            "plasma": 0.04,
            "mast": 0.02,
            "endothelial": 0.09,
        },
        positive={"ESR1": 0.05, "PGR": 0.05, "AR": 0.05, "ERBB2": 0.1},
    ),
    "colorectal": CancerType(
        nests=0.28,
        glands=0.20,
        aggregates=0.07,
        vessels=22,
        nest_radius_um=52,
        nest_lumens=2.6,
        stroma={
            "fibroblast": 0.57,
            "t_cell": 0.13,
            "macrophage": 0.13,
            "plasma": 0.06,
            "mast": 0.025,
            "endothelial": 0.06,
        },
        positive={"ESR1": 0.02, "PGR": 0.02, "AR": 0.05, "ERBB2": 0.05},
    ),
    "ovarian": CancerType(
        nests=0.36,
        glands=0.08,
        aggregates=0.05,
        vessels=24,
        nest_radius_um=58,
        nest_lumens=1.2,
        stroma={
            "fibroblast": 0.68,
            "t_cell": 0.09,
            "macrophage": 0.13,
            "plasma": 0.03,
            "mast": 0.01,
            "endothelial": 0.06,
        },
        positive={"ESR1": 0.7, "PGR": 0.4, "AR": 0.3, "ERBB2": 0.1},
    ),
}


@dataclass(frozen=True, kw_only=True)
class TissueConfig:
    """One slide of one patient; the same configuration gives the same bits.

    Args:
        patient: Name of the patient; enters every seed.
        cancer_type: A key of `CANCER_TYPES`; decides composition and panel.
        seed: Base seed, not negative.
        size_um: Side of the square section, in µm.
        mpp: Micrometres per pixel of the masks and of the H&E.
        morphology: In [0, 1]: how strongly cell type and state show in the image. 1 is the full strength;
            0 switches off every look (size, shape, spacing, chromatin, stains, fibres, lumens), so that the
            image tells nothing about a cell's transcriptome. See `looks` for what each unit does.
        spacing_um: Mean distance between neighbouring cells outside immune aggregates, in µm.
        depth: Median counts of a cell.
        divergence: In [0, 2]: how far the genes of a cancer type, and less so of a patient, depart from the
            programme that all share, see `divergence`. At 0 what was learned on one serves every other.

    Raises:
        SyntheticError: A value is out of range.
    """

    patient: str
    cancer_type: str
    seed: int
    size_um: float = 625.0
    mpp: float = 0.25
    morphology: float = 1.0
    spacing_um: float = 12.2
    depth: float = 180.0
    divergence: float = 0.0

    def __post_init__(self) -> None:
        if self.cancer_type not in CANCER_TYPES:
            known = ", ".join(CANCER_TYPES)
            raise SyntheticError(f"cancer_type {self.cancer_type!r} is not known; choose one of {known}")
        if not self.patient:
            raise SyntheticError("patient is empty; give the patient a name")
        if self.seed < 0:
            raise SyntheticError(f"seed is {self.seed}; it must not be negative")
        if not 0 <= self.morphology <= 1:
            raise SyntheticError(f"morphology is {self.morphology}; it must lie in [0, 1]")
        if not 100 <= self.size_um <= 5000:
            raise SyntheticError(f"size_um is {self.size_um}; it must lie in [100, 5000] µm")
        if not 0.1 <= self.mpp <= 2:
            raise SyntheticError(f"mpp is {self.mpp}; it must lie in [0.1, 2] µm per pixel")
        if not 8 <= self.spacing_um <= 40:
            raise SyntheticError(f"spacing_um is {self.spacing_um}; it must lie in [8, 40] µm")
        if not 0 <= self.divergence <= 2:
            raise SyntheticError(f"divergence is {self.divergence}; it must lie in [0, 2]")
        if not self.depth > 0:
            raise SyntheticError(f"depth is {self.depth}; it must be positive")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the masks and the image in pixels."""
        side = round(self.size_um / self.mpp)
        return side, side


def cohort(
    n_patients: int = 5, *, seed: int = 0, morphology: float = 1.0, divergence: float = 0.0
) -> list[TissueConfig]:
    """Patients P1, P2, … whose cancer types go round breast, lung, colorectal, ovarian.

    With five patients of which the last two are held out, one of these is of a cancer type that training
    never saw and the other of one it did.

    Args:
        n_patients: How many.
        seed: Base seed of all.
        morphology: Strength of morphology, see `TissueConfig`.
        divergence: How far cancer types and patients depart from the shared programme, see `TissueConfig`.
    """
    if n_patients < 1:
        raise SyntheticError(f"n_patients is {n_patients}; a cohort has at least one patient")
    kinds = tuple(CANCER_TYPES)
    return [
        TissueConfig(
            patient=f"P{i + 1}",
            cancer_type=kinds[i % len(kinds)],
            seed=seed,
            morphology=morphology,
            divergence=divergence,
        )
        for i in range(n_patients)
    ]
