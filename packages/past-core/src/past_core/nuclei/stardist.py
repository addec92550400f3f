"""Nuclei by StarDist (Schmidt et al., MICCAI 2018; extra `stardist`), window by window.

TensorFlow is imported when a segmenter is made, and never before. Weights are never downloaded: they are
given by path or by the variable PAST_STARDIST_MODEL, or lie where the stardist package put them.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from past_core.errors import PastError
from past_core.nuclei.slidewide import SlideWide, slide_percentiles
from past_core.slides import Slide

logger = logging.getLogger(__name__)

MODEL = "2D_versatile_he"
SHA256 = "f1696ef0631bd7e1c0e5c0d3017e2b4c6a95e284c6aab9c22fc2f08317817b28"
"""Of the zip with that model, as the stardist package has it."""
VARIABLE = "PAST_STARDIST_MODEL"
PERCENTILES = (1.0, 99.8)
NUCLEUS_UM = 48.0
"""Twice the diameter of a large nucleus: seen around a tile beyond the network's field."""
MAX_ZIP = 2**28


class StarDistError(PastError, ModuleNotFoundError):
    """StarDist is asked for and is not installed."""


class WeightsError(PastError, FileNotFoundError):
    """There are no weights for StarDist."""


class ModelError(PastError, ValueError):
    """A StarDist model that is damaged, or not one of RGB images."""


def find_weights(model: str | Path | None = None) -> Path | None:
    """Folder or zip of a StarDist model; None where none was named and none is in the package's folder.

    Args:
        model: folder with config.json and weights, or the zip of `2D_versatile_he`; else PAST_STARDIST_MODEL,
            else where the stardist package keeps what it downloaded.

    Raises:
        WeightsError: a path was named that holds no model.
    """
    for source, given in (("", model), (f" ({VARIABLE})", os.environ.get(VARIABLE))):
        if given is None or not str(given):
            continue
        path = Path(given).expanduser()
        found = path if path.suffix.lower() == ".zip" and path.is_file() else _folder(path)
        if found is None:
            raise WeightsError(
                f"no StarDist model at {path}{source}; expected a folder with config.json and "
                f"weights_best.h5, or the zip of {MODEL}"
            )
        return found
    keras = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return _folder(keras / "models" / "StarDist2D" / MODEL)


def _folder(path: Path) -> Path | None:
    """The folder, or one right below it, that holds a model."""
    if not path.is_dir():
        return None
    for folder in (path, *sorted(child for child in path.iterdir() if child.is_dir())):
        if (folder / "config.json").is_file() and any(folder.glob("weights_*.h5")):
            return folder
    return None


class StarDistSegmenter:
    """A StarDist model on windows of one slide; see `past_core.nuclei.tiles.Segmenter`.

    Args:
        model: a `stardist.models.StarDist2D` of three channels.
        low: `(3,)` values of the slide that become 0.
        high: `(3,)` values that become 1.
        mpp: µm per pixel of the windows.
        name: of the model, for results to carry.
    """

    name = "stardist"

    def __init__(self, model: Any, low: np.ndarray, high: np.ndarray, *, mpp: float, name: str) -> None:
        self._model, self._low, self._high = model, low, high
        config = model.config
        self.align = int(np.lcm.reduce(model._axes_div_by("YX")))
        self.halo = receptive_px(config) + int(np.ceil(NUCLEUS_UM / mpp))
        self.parameters: dict[str, Any] = {
            "model": name,
            "prob": float(model.thresholds.prob),
            "nms": float(model.thresholds.nms),
            "percentiles": list(PERCENTILES),
            "low": [float(value) for value in low],
            "high": [float(value) for value in high],
        }

    def labels(self, image: np.ndarray, amount: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """See `Segmenter`."""
        scale = np.maximum(self._high - self._low, 1e-6)
        values = ((image.transpose(1, 2, 0) - self._low) / scale).astype(np.float32)
        labels, _ = self._model.predict_instances(values, verbose=False, show_tile_progress=False)
        return np.asarray(labels, np.int32)


def receptive_px(config: Any) -> int:
    """Pixels on each side that a StarDist network's output depends on, from its configuration.

    Two blocks of convolutions a level, down and up, at strides that double; pooling and the first
    convolutions on the grid add a pixel of their level each.
    """
    grid, depth = max(config.grid), config.unet_n_depth
    reach = max(config.unet_kernel_size) // 2
    steps = config.unet_n_conv_per_depth * reach
    field = sum((2 * steps + 2) * grid * 2**level for level in range(depth))
    field += steps * grid * 2**depth
    field += sum((steps + 1) * 2**level for level in range(int(np.log2(grid)) + 1))
    return int(field + (max(config.net_conv_after_unet > 0, 0) * reach * grid))


def stardist_segmenter(
    slide: Slide, wide: SlideWide, *, mpp: float, model: str | Path | None = None
) -> StarDistSegmenter:
    """A segmenter of that slide: loads the model, and takes the slide's percentiles once.

    Raises:
        StarDistError: the package is not installed.
        WeightsError: no weights.
        ModelError: weights that are damaged, a zip of other content, or a model of other images.
    """
    missing = [name for name in ("stardist", "tensorflow") if importlib.util.find_spec(name) is None]
    path = find_weights(model)
    if missing:
        raise StarDistError(
            f"the segmenter stardist needs {' and '.join(missing)}, not installed here; pip install "
            "'past-core[stardist]', or take the segmenter watershed"
        )
    if path is None:
        raise WeightsError(
            f"the segmenter stardist has no weights, and nothing is downloaded; give the folder or zip of "
            f"{MODEL} as the model or in {VARIABLE}, or fetch it once with "
            f"StarDist2D.from_pretrained('{MODEL}'), or take the segmenter watershed"
        )
    network, name = load_model(path)
    low, high = slide_percentiles(slide, wide, mpp=mpp, percentiles=PERCENTILES)
    return StarDistSegmenter(network, low, high, mpp=slide.at(mpp).require_mpp(), name=name)


def load_model(path: Path) -> tuple[Any, str]:
    """Loads a model from its folder, or from the zip whose sha256 is checked; gives it and its name.

    Raises:
        ModelError: damaged, a zip of other content, or a model of other images than RGB.
    """
    if path.suffix.lower() == ".zip":
        with tempfile.TemporaryDirectory() as folder:
            return _load(_unpack(path, Path(folder) / MODEL)), MODEL
    return _load(path), path.name


def _load(folder: Path) -> Any:
    try:
        config = json.loads((folder / "config.json").read_text())
        channels = config["n_channel_in"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'}: not a StarDist model's ({error})") from error
    if channels != 3:
        raise ModelError(f"{folder}: a model of images with {channels} channels; expected 3, as {MODEL} has")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            from stardist.models import StarDist2D

            model = StarDist2D(None, name=folder.name, basedir=str(folder.parent))
    except Exception as error:  # whatever stardist and TensorFlow raise on foreign files
        raise ModelError(f"{folder}: the StarDist model cannot be loaded ({error})") from error
    logger.debug("%s: %s", folder, said.getvalue().strip())
    return model


def _unpack(path: Path, folder: Path) -> Path:
    """The zip's own files, by name alone."""
    if path.stat().st_size > MAX_ZIP:
        raise ModelError(f"{path}: {path.stat().st_size} bytes; expected the zip of {MODEL}")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ModelError(f"{path}: sha256 {found}; expected {SHA256}, the zip of {MODEL}")
    folder.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            short = Path(name).name
            if short.endswith((".json", ".h5")):
                (folder / short).write_bytes(archive.read(name))
    return folder
