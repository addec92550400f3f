"""Slides made up for tests of the slide store."""

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from scipy.sparse import csr_matrix

from past_core.ingest.write import SlideData


def made_slide(
    *, n_cells: int = 60, height: int = 700, width: int = 900, seed: int = 0, outlines: bool = True, **changes
) -> SlideData:
    """A slide of noise with cells all over it; every cell has counts and a square outline of 12 px."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform((10, 10), (width - 10, height - 10), (n_cells, 2))
    counts = rng.poisson(1.5, (n_cells, 12)).astype(np.int64)
    counts[:, 0] += 1
    ids = [f"cell-{number}" for number in rng.permutation(n_cells)]
    table = AnnData(
        X=csr_matrix(counts),
        obs=pd.DataFrame({"cell_area_um2": np.full(n_cells, 9.0)}, index=ids),
        var=pd.DataFrame(
            {"symbol": [f"G{number}" for number in range(12)]},
            index=[f"ENSG{number:011d}" for number in range(12)],
        ),
        obsm={"spatial": xy},
    )
    squares = gpd.GeoDataFrame(
        geometry=shapely.box(xy[:, 0] - 6, xy[:, 1] - 6, xy[:, 0] + 6, xy[:, 1] + 6), index=ids
    )
    values = {
        "name": "made",
        "image": rng.integers(0, 256, (3, height, width), dtype=np.uint8),
        "mpp": 0.25,
        "table": table,
        "cell_boundaries": squares if outlines else None,
        "nucleus_boundaries": squares.iloc[::2] if outlines else None,
        "patient": "P1",
        "cancer_type": "breast",
    }
    return SlideData(**(values | changes))
