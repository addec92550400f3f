"""The image side: any timm model on a uint8 patch, normalised where the model runs."""

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from past_core.models.errors import ModelError
from past_core.models.weights import load_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Which image encoder, and the input it takes.

    Args:
        name: a timm architecture, e.g. "vit_large_patch16_224" (ViT-L/16, the paper's size). Nothing is
            downloaded: the weights are random unless `weights` is given.
        image_size: side of the input patch in pixels.
        mpp: µm per pixel of that input; `image_size * mpp` is the field around the cell in µm.
        mean: mean of each channel on the 0..1 scale; ImageNet's, as in PAST (timm's own for this
            architecture would be 0.5).
        std: standard deviation of each channel on the 0..1 scale.
        options: further keyword arguments of the timm model, e.g. `{"depth": 3, "embed_dim": 96}`.
        position_init: "timm" leaves the position embedding as the model makes it; "sincos" sets it to the
            two-dimensional sine-cosine code times 0.5, which small ViTs trained from scratch need.
        weights: file with a state dict of that timm model (.safetensors, or .pt/.pth/.bin, read without
            executing pickled code), the start of a training; position embeddings of another image size are
            resampled. A checkpoint of PAST does not need it.
    """

    name: str = "vit_large_patch16_224"
    image_size: int = 224
    mpp: float = 0.25
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    options: dict[str, Any] = field(default_factory=dict)
    position_init: Literal["timm", "sincos"] = "timm"
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.image_size < 1 or not self.mpp > 0:
            msg = f"image_size {self.image_size} and mpp {self.mpp} must be positive"
            raise ModelError(msg)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            msg = f"mean {self.mean} and std {self.std} must have three values each, std positive"
            raise ModelError(msg)


class ImageEncoder(nn.Module):
    """A timm model without its classifier; ViTs pool with their class token.

    Args:
        config: which model, and the input it takes.
        model: a network to use instead of building `config.name`: (B, 3, L, L) to (B, `num_features`), with
            its weights in it.

    Raises:
        ModelError: timm does not know the name or an option, the sine-cosine code does not fit the model,
            or the weights are not this model's.
        WeightsNotFoundError: no file at `config.weights`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: ImageEncoderConfig, model: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = _timm_model(config) if model is None else model
        if config.position_init == "sincos":
            _set_sincos(self.model, config.name)
        elif config.position_init != "timm":
            msg = f"position_init={config.position_init!r} is not known; expected 'timm' or 'sincos'"
            raise ModelError(msg)
        if config.weights is not None:
            load_weights(self.model, config.weights)
        mean = torch.tensor(config.mean).view(1, 3, 1, 1)
        std = torch.tensor(config.std).view(1, 3, 1, 1)
        # (x / 255 - mean) / std in one multiply-add; not weights, so not in the state dict.
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    @property
    def dim(self) -> int:
        """Width of the features."""
        network: Any = self.model  # timm's names, which other networks given take over
        return int(getattr(network, "head_hidden_size", None) or network.num_features)

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels (B, 3, L, L) in 0..255 to the model's input, on the device the model is on."""
        return torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)

    def forward(self, images: Tensor) -> Tensor:
        """Features of patches.

        Args:
            images: (B, 3, L, L) uint8, or float in 0..255, L = `config.image_size`.

        Returns:
            (B, dim).

        Raises:
            ModelError: another shape.
        """
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            msg = (
                f"images have shape {tuple(images.shape)}; {self.config.name} takes (B, 3, {size}, {size}), "
                f"that is {size * self.config.mpp:g} µm at {self.config.mpp:g} µm/px"
            )
            raise ModelError(msg)
        return self.model(self.normalize(images))


def _timm_model(config: ImageEncoderConfig) -> nn.Module:
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=4)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        msg = f"timm {timm.__version__} has no model {config.name!r}; {hint}"
        raise ModelError(msg)
    options = dict(config.options)
    default = timm.get_pretrained_cfg(config.name)
    if default is not None and default.fixed_input_size:
        options.setdefault("img_size", config.image_size)
    try:
        return timm.create_model(config.name, pretrained=False, num_classes=0, **options)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        msg = f"timm cannot build {config.name} with {options}: {error}"
        raise ModelError(msg) from error


def sincos_positions(height: int, width: int, dim: int) -> Tensor:
    """Two-dimensional sine-cosine position code, (height * width, dim), rows first.

    The first half of the channels codes the row, the second the column: sines then cosines of the
    coordinate times 10000^(-i / (dim / 4)).

    Raises:
        ModelError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        msg = f"the two-dimensional sine-cosine code needs a width that is a multiple of 4, got {dim}"
        raise ModelError(msg)
    frequency = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def code(length: int) -> Tensor:
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    rows = code(height)[:, None].expand(height, width, dim // 2)
    columns = code(width)[None].expand(height, width, dim // 2)
    return torch.cat([rows, columns], dim=2).reshape(height * width, dim)


def _set_sincos(model: nn.Module, name: str, *, scale: float = 0.5) -> None:
    position = getattr(model, "pos_embed", None)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(position, nn.Parameter) or grid is None or position.ndim != 3:
        msg = f"{name} has no learned position embedding on a patch grid; use position_init='timm'"
        raise ModelError(msg)
    height, width = grid
    code = sincos_positions(height, width, position.shape[-1]) * scale
    with torch.no_grad():
        # Leading entries belong to the class and register tokens, which have no place.
        position.zero_()
        position[0, -height * width :] = code.to(position.dtype)
