"""Nuclei as a GeoJSON that QuPath opens as detections, with its names of measurements and classes."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from past_vihc.hscore.presets import CLASSES

COLOURS = ((112, 112, 225), (255, 215, 0), (225, 150, 50), (200, 50, 50))
"""Red, green and blue of the four classes, as in QuPath."""


def write_geojson(path: Path, nuclei: pd.DataFrame, rings: Iterable[np.ndarray]) -> None:
    """Writes one detection a nucleus, one at a time.

    Args:
        path: the file; compressed where it ends in `.gz`. Written as it is: replace it atomically.
        nuclei: columns `class` (name), `dab_od`, `haematoxylin_od`, `area_um2`.
        rings: an open ring `(k, 2)` for each row, x and y in level-0 pixels.
    """
    colours = dict(zip(CLASSES, COLOURS, strict=True))
    columns = ["class", "dab_od", "haematoxylin_od", "area_um2"]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        rows = nuclei[columns].itertuples(index=False, name=None)
        for number, ((name, dab, haematoxylin, area), ring) in enumerate(zip(rows, rings, strict=True)):
            points = np.round(np.asarray(ring, np.float64), 2).tolist()
            feature = {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
                "properties": {
                    "objectType": "detection",
                    "classification": {"name": name, "color": list(colours[name])},
                    "measurements": {
                        "Nucleus: Area µm^2": round(float(area), 3),
                        "Nucleus: Hematoxylin OD mean": round(float(haematoxylin), 5),
                        "Nucleus: DAB OD mean": round(float(dab), 5),
                    },
                },
            }
            file.write(",\n" if number else "\n")
            file.write(json.dumps(feature, ensure_ascii=False))
        file.write("\n]}\n")
