"""Any model of timm: `timm:NAME`, or a timm repository of the hub, `hf-hub:OWNER/NAME[@REVISION]`."""

import json
from pathlib import Path
from typing import Any

import timm

from past_core.checkpoint.folder import LIBRARY
from past_core.encoders.files import Hub, in_cache, weights_folder
from past_core.frozen import EncoderError, EncoderNotFoundError
from past_core.models.errors import ModelError
from past_core.models.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, ImageEncoderConfig

TIMM, HUB = "timm:", "hf-hub:"
MPP = 0.5
"""µm per pixel at which tissue is shown to models that do not know it; 20x, as most are used."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def is_timm_name(name: str) -> bool:
    """Whether a name goes here."""
    return name.startswith((TIMM, HUB))


def load_timm(name: str, weights: str | Path | None = None, *, download: bool = False) -> ImageEncoder:
    """Builds a timm model by name, with its own normalisation and input size.

    Args:
        name: "timm:NAME" or "hf-hub:OWNER/NAME[@REVISION]".
        weights: file of its weights; by default the cache, then the hub's local cache.
        download: whether they may be downloaded.

    Raises:
        EncoderNotFoundError: weights or configuration are not on this machine.
        EncoderError: the hub's repository is not a timm model.
        ModelError: timm does not know the model, or the file does not fit.
    """
    if name.startswith(TIMM):
        return _by_name(name.removeprefix(TIMM), weights, download=download)
    return _by_hub(name.removeprefix(HUB), weights, download=download)


def _by_name(name: str, weights: str | Path | None, *, download: bool) -> ImageEncoder:
    # timm's names may carry a tag of the weights after a dot, which is no part of the architecture.
    default = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if default is None:
        return ImageEncoder(ImageEncoderConfig(name=name))  # which refuses it, naming similar architectures
    config = _config(name, {}, vars(default))
    hub = Hub.parse(default.hf_hub_id) if default.hf_hub_id else None
    return _load(f"{TIMM}{name}", name, config, hub, weights, download=download)


def _by_hub(name: str, weights: str | Path | None, *, download: bool) -> ImageEncoder:
    hub = Hub.parse(name)
    path = hub.cached("config.json") or (hub.download("config.json") if download else None)
    if path is None:
        raise EncoderNotFoundError(
            f"huggingface.co/{name} is not in the hub's cache on this machine; "
            "let it be downloaded (--download, download=True)"
        )
    try:
        content = json.loads(path.read_text())
        if content.get("library_name") == LIBRARY:
            raise EncoderError(f"huggingface.co/{name} holds a model of PAST: give its name without {HUB}")
        architecture = str(content["architecture"])
        preprocessing = content.get("pretrained_cfg", content)
        config = _config(architecture, content.get("model_args") or {}, preprocessing)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, ModelError) as error:
        raise EncoderError(
            f"huggingface.co/{name} is no timm model: its config.json cannot be used ({error!r})"
        ) from error
    return _load(f"{HUB}{name}", name, config, hub, weights, download=download)


def _config(architecture: str, options: dict[str, Any], preprocessing: dict[str, Any]) -> ImageEncoderConfig:
    options = {key: value for key, value in options.items() if key not in ("num_classes", "in_chans")}
    size = preprocessing.get("input_size") or (3, 224, 224)
    return ImageEncoderConfig(
        name=architecture,
        image_size=int(size[-1]),
        mpp=MPP,
        mean=tuple(preprocessing.get("mean") or IMAGENET_MEAN),
        std=tuple(preprocessing.get("std") or IMAGENET_STD),
        options=options,
    )


def _load(
    name: str,
    stem: str,
    config: ImageEncoderConfig,
    hub: Hub | None,
    weights: str | Path | None,
    *,
    download: bool,
) -> ImageEncoder:
    path = Path(weights) if weights is not None else in_cache(stem)
    if path is None and hub is not None:
        path = hub.first(HUB_FILES, download=download)
    if path is None or not path.is_file():
        place = path or weights_folder() / f"{stem.replace('/', '--')}.safetensors"
        where = f"huggingface.co/{hub.repo}" if hub is not None else "timm's releases"
        raise EncoderNotFoundError(
            f"no weights for {name} at {place}; (1) download {HUB_FILES[0]} from {where}, (2) save it there "
            "or give its path (--weights, weights=); or let it be downloaded (--download, download=True)"
        )
    return ImageEncoder(ImageEncoderConfig(**{**vars(config), "weights": str(path)}))
