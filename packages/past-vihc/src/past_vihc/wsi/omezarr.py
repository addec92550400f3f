"""OME-Zarr (NGFF 0.5, zarr version 3), as past-core's slide stores hold their images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from past_core.ingest.pyramid import level_shapes, write_pyramid
from past_vihc.wsi.describe import NAMESPACE, sentence


def write_omezarr(
    image: Any,
    path: Path,
    record: Mapping[str, Any],
    *,
    mpp: float,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes an image with its pyramid into a new folder.

    Args:
        image: (3, H, W) uint8, sliced as `[:, y0:y1, x0:x1]`.
        path: the folder; made.
        record: see `describe`; kept in the group's attributes.
        mpp: µm per pixel.
        progress: called with tiles of level 0 done and in all.

    Raises:
        OSError: it cannot be written.
    """
    import zarr

    _, height, width = image.shape
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    datasets = []
    for number, (h, w) in enumerate(level_shapes(height, width)):
        scale = [1.0, mpp * height / h, mpp * width / w]
        transform = {"type": "scale", "scale": scale}
        datasets.append({"path": f"s{number}", "coordinateTransformations": [transform]})
    colours = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [{"label": k, "color": v, "active": True, "window": window} for k, v in colours.items()]
    name = f"{record['slide']}, virtual {record['stain']}"
    ome = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets, "type": "mean"}],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }
    attributes = {"ome": ome, NAMESPACE: {**record, "description": sentence(record)}}
    zarr.create_group(path, attributes=attributes, zarr_format=3)
    write_pyramid(image, path, progress=progress)
