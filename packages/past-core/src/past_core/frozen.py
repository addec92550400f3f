"""A frozen image encoder: fixed weights, their preprocessing, and a fingerprint of both."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from past_core.errors import PastError
from past_core.models.dual_encoder import ProjectionHead
from past_core.models.image_encoder import ImageEncoder

Space = Literal["features", "joint"]
PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""In which type the network's products are taken; weights and normalisation stay float32."""


class EncoderError(PastError, ValueError):
    """An unknown encoder, or one that cannot do what is asked."""


class EncoderNotFoundError(PastError, FileNotFoundError):
    """The weights of an encoder are not where they should be."""


class FrozenEncoder:
    """An image encoder with fixed weights.

    Attributes:
        name: what it was loaded as.
        space: "features" or "joint".
        dim: length of its vectors.
        mpp: µm per pixel of its input.
        patch_size: side of its input in pixels.
        mean: channel means on the 0..1 scale; normalisation is the encoder's own work.
        std: channel standard deviations.
        fingerprint: sha256 of weights and preprocessing, for caches; the same on every device.
        demo: whether it was trained on synthetic tissue.
        precision: "32", or "bf16" or "fp16" for faster and less exact vectors.
    """

    precision: str = "32"

    def __init__(
        self, name: str, encoder: ImageEncoder, head: ProjectionHead | None = None, *, demo: bool = False
    ) -> None:
        config = encoder.config
        self.name, self.demo = name, demo
        self.space: Space = "features" if head is None else "joint"
        self.mpp, self.patch_size = config.mpp, config.image_size
        self.mean, self.std = config.mean, config.std
        self._encoder, self._head = encoder, head
        self.dim = encoder.dim if head is None else head.layer_norm.normalized_shape[0]
        preprocessing = {
            "architecture": config.name,
            "options": dict(config.options),
            "image_size": config.image_size,
            "mpp": config.mpp,
            "mean": config.mean,
            "std": config.std,
            "space": self.space,
        }
        parts: dict[str, nn.Module] = {"encoder": encoder} | ({} if head is None else {"head": head})
        self.fingerprint = fingerprint(preprocessing, parts)
        for module in parts.values():
            module.eval().requires_grad_(requires_grad=False)

    @property
    def field_um(self) -> float:
        """Side of the field it sees, in µm."""
        return self.mpp * self.patch_size

    @property
    def network(self) -> ImageEncoder:
        """The network itself, without the projection: for its configuration, or to train it further."""
        return self._encoder

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._encoder.scale.device

    def to(self, device: str | torch.device, precision: str | None = None) -> Self:
        """Moves it, and sets the precision where one is given.

        Raises:
            EncoderError: an unknown precision, or "fp16" on the CPU.
        """
        if precision is not None:
            if precision not in PRECISIONS:
                raise EncoderError(f"precision {precision!r}; expected {', '.join(PRECISIONS)}")
            if precision == "fp16" and torch.device(device).type == "cpu":
                raise EncoderError("fp16 is for accelerators; on the CPU use 32, or bf16 where it is faster")
            self.precision = precision
        self._encoder.to(device)
        if self._head is not None:
            self._head.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor | np.ndarray) -> Tensor:
        """Embeds patches.

        Args:
            images: `(B, 3, L, L)` uint8 (or float in 0..255), L = `patch_size`, on any device.

        Returns:
            `(B, dim)` float32 on the encoder's device; unit vectors in the joint space.

        Raises:
            ModelError: another shape.
        """
        device = self.device
        images = torch.as_tensor(images).to(device, non_blocking=True)
        low = self.precision != "32"
        with torch.autocast(device.type, PRECISIONS[self.precision] if low else None, enabled=low):
            features = self._encoder(images)
            if self._head is not None:
                features = nn.functional.normalize(self._head(features).float(), dim=-1)
        return features.float()

    def __repr__(self) -> str:
        return (
            f"FrozenEncoder({self.name!r}, {self.space}, dim={self.dim}, {self.patch_size} px at "
            f"{self.mpp} µm/px, {self.fingerprint[:12]})"
        )


def check_space(space: str) -> Space:
    """The space of that name.

    Raises:
        EncoderError: there is none.
    """
    for known in get_args(Space):
        if space == known:
            return known
    raise EncoderError(f"space {space!r}; expected 'features' or 'joint'")


def fingerprint(settings: Mapping[str, Any], parts: Mapping[str, nn.Module | Tensor]) -> str:
    """Sha256 over settings (as JSON) and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode())
    for part, content in sorted(parts.items()):
        tensors = content.state_dict() if isinstance(content, nn.Module) else {"": content}
        for key, tensor in sorted(tensors.items()):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{part}.{key} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
