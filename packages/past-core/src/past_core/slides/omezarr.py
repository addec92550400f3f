"""OME-Zarr images (NGFF 0.4 and 0.5) through tensorstore."""

import json
from typing import Any

import numpy as np

from past_core.errors import PastError
from past_core.remote import Location, open_kvstore, remote_error
from past_core.slides.errors import SlideError
from past_core.slides.slide import Slide, square_mpp

MICROMETRES = {
    "micrometer": 1.0,
    "micrometre": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "nanometer": 1e-3,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
}
CACHE_BYTES = 64 * 2**20


class OmeZarrSlide(Slide):
    """An RGB multiscale image.

    Args:
        path: the image's group.
        attributes: its zarr attributes.
        mpp: µm per level-0 pixel, overriding the metadata.

    Raises:
        SlideError: incomplete metadata, missing levels, or not an RGB uint8 image.
        RemoteError: a URL that cannot be reached, or may not be read.
    """

    def __init__(self, path: Location, attributes: dict, *, mpp: float | None = None) -> None:
        ome = attributes.get("ome", attributes)
        try:
            image = ome["multiscales"][0]
            datasets = [
                (str(entry["path"]), entry.get("coordinateTransformations", []))
                for entry in image["datasets"]
            ]
            axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
            names = "".join(str(axis["name"]) for axis in axes)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise SlideError(f"{path}: incomplete OME-Zarr multiscales metadata ({error!r})") from error
        self._arrays = [self._open(path, name) for name, _ in datasets]
        sizes = [self._squeeze(path, names, k) for k in range(len(self._arrays))]
        scales = datasets[0][1] if datasets else []
        super().__init__(path, sizes, mpp if mpp is not None else _stated_mpp(path, axes, scales))

    def _open(self, path: Location, name: str) -> Any:
        import tensorstore as ts

        folder: Any = (path / name).resolve()
        if not folder.is_relative_to(path.resolve()):  # both local, or both behind a URL
            raise SlideError(f"{path}: level {name!r} lies outside the image's folder")
        driver = "zarr3" if (folder / "zarr.json").is_file() else "zarr"
        try:
            return ts.open(
                {"driver": driver, "recheck_cached_data": "open"},
                kvstore=open_kvstore(folder, pixels=True),
                context=ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}}),
                open=True,
                read=True,
            ).result()
        except PastError:
            raise
        except (ValueError, OSError) as error:
            raise remote_error(error, folder) or SlideError(
                f"{path}: cannot open level {name!r}: {_first_line(error)}"
            ) from error

    def _squeeze(self, path: Location, names: str, k: int) -> tuple[int, int]:
        """Drops axes of length one, leaving (c, y, x); returns (height, width)."""
        array = self._arrays[k]
        shape = dict(zip(names, array.shape, strict=False))
        if array.rank != len(names) or not {"c", "y", "x"} <= set(names):
            raise SlideError(
                f"{path}: axes {names!r} and shape {array.shape}; expected an RGB image with c, y, x"
            )
        if (
            shape["c"] != 3
            or array.dtype.name != "uint8"
            or any(shape[a] != 1 for a in names if a not in "cyx")
        ):
            raise SlideError(
                f"{path}: a {array.dtype.name} image of shape {array.shape} on axes {names!r}; "
                "expected three uint8 channels (RGB)"
            )
        self._arrays[k] = array[tuple(slice(None) if a in "cyx" else 0 for a in names)]
        kept = [a for a in names if a in "cyx"]
        self._arrays[k] = self._arrays[k].transpose([kept.index(a) for a in "cyx"])
        return shape["y"], shape["x"]

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        try:
            window = self._arrays[level][:, y : y + height, x : x + width].read().result()
        except (ValueError, OSError) as error:
            raise remote_error(error, self.path) or SlideError(
                f"{self.path}: damaged data in level {level} at row {y}, column {x}: {_first_line(error)}"
            ) from error
        return np.ascontiguousarray(window)

    def close(self) -> None:
        """Drops the arrays and their cache."""
        self._arrays = []


def _stated_mpp(path: Location, axes: list[dict], transforms: Any) -> float | None:
    """µm per pixel from the first level's scale, None where the axes carry no unit of length."""
    units = {str(axis["name"]): MICROMETRES.get(str(axis.get("unit", ""))) for axis in axes}
    position = {str(axis["name"]): k for k, axis in enumerate(axes)}
    of_y, of_x = units["y"], units["x"]
    if of_y is None or of_x is None:
        return None
    try:
        scale = next(transform["scale"] for transform in transforms if transform["type"] == "scale")
        y, x = (float(scale[position[a]]) * unit for a, unit in (("y", of_y), ("x", of_x)))
    except (StopIteration, KeyError, IndexError, TypeError, ValueError):
        return None
    return square_mpp(path, x, y)


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return json.dumps(text)[1:-1][:300]
