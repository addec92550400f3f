"""Small Xenium bundles made up for tests of ingest."""

from pathlib import Path

from past_core.synthetic.bundle import write_bundle
from past_core.synthetic.expression import simulate_expression
from past_core.synthetic.tissue import TissueConfig, simulate_tissue


def made_bundle(
    folder: Path, name: str, *, seed: int = 4, size_um: float = 100, cancer: str = "breast"
) -> Path:
    """FOLDER/NAME with `NAME_he_image.ome.tif` and its alignment in it: about a hundred cells."""
    tissue = simulate_tissue(TissueConfig(patient=name, cancer_type=cancer, seed=seed, size_um=size_um))
    return write_bundle(tissue, simulate_expression(tissue), folder / name)
