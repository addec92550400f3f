"""A slide for tests of the view: cells of known outlines, some of which fail QC, on a smooth image."""

import http.client

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from made_slides import made_slide
from scipy.sparse import csr_matrix

from past_core.ingest.write import SlideData
from past_core.view.server import ViewServer

HEIGHT, WIDTH, STEP, GENES = 1300, 1100, 40, 30


def view_slide(seed: int = 0) -> SlideData:
    """Cells on a jittered grid that do not touch, one of two parts, one with a hole; every ninth is empty.

    Pixels are pale and change slowly, so that a JPEG keeps them and no layer's colour is among them.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(30, WIDTH - 20, STEP), np.arange(30, HEIGHT - 20, STEP)), axis=-1)
    xy = grid.reshape(-1, 2) + rng.uniform(-4, 4, (grid.size // 2, 2))
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ray = rng.uniform(9, 15, (len(xy), 12))
    ring = xy[:, None] + ray[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    polygons = list(shapely.polygons(ring))
    polygons[5] = shapely.MultiPolygon([polygons[5], shapely.box(*(xy[5] + 16), *(xy[5] + 19))])
    polygons[7] = shapely.Polygon(ring[7], [shapely.box(*(xy[7] - 2), *(xy[7] + 2)).exterior.coords])
    counts = rng.poisson(0.7, (len(xy), GENES)) * rng.integers(1, 9, (len(xy), GENES))
    counts[:, 0] += 1
    counts[::9] = 0
    ids = [f"c/{number} é" for number in rng.permutation(len(xy))]
    nuclei = shapely.polygons(xy[:, None] + (ring - xy[:, None]) * 0.6)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([210 + 30 * np.sin(rows / 90), 195 + 30 * np.cos(columns / 70), 240 - columns / 25])
    table = AnnData(
        X=csr_matrix(counts.astype(np.int64)),
        obs=pd.DataFrame(
            {
                "cell_area_um2": [polygon.area * 0.25 for polygon in polygons],
                "nucleus_area_um2": [np.nan, *(nucleus.area * 0.25 for nucleus in nuclei[1:])],
                "cell_type": ["a", *("b" for _ in polygons[1:])],
            },
            index=ids,
        ),
        var=pd.DataFrame(
            {"symbol": [f"G{number}" for number in range(GENES)]},
            index=[f"ENSG{number:011d}" for number in range(GENES)],
        ),
        obsm={"spatial": xy},
    )
    return made_slide(
        name="seen",
        image=image.astype(np.uint8),
        mpp=0.5,
        table=table,
        cell_boundaries=gpd.GeoDataFrame(geometry=polygons, index=ids),
        nucleus_boundaries=gpd.GeoDataFrame(geometry=nuclei, index=ids),
    )


def ask(
    server: ViewServer, target: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Asks as it is told: nothing of the target is tidied up on the way."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection._validate_path = lambda _: None  # the target is what is tested
    connection.request(method, target, body=body, headers=headers)
    reply = connection.getresponse()
    content = reply.read(), dict(reply.getheaders())
    connection.close()
    return reply.status, *content
