"""What is known of a public encoder: its network, the input it takes, and how to get its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from past_core.models.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoderConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class PublicEncoder:
    """A public encoder of image patches.

    Attributes:
        architecture: name of the network, part of the fingerprint.
        build: makes the network, `(B, 3, L, L)` normalised to `(B, dim)`, with random weights.
        convert: the release's state dict, without `ignored`, in the network's names.
        ignored: patterns (`fnmatch`) of the release's keys that the embedding does not need; every other key
            must fit.
        options: further arguments of the architecture, part of the fingerprint.
        dim: length of the embedding.
        embedding: which vector it is.
        image_size: side of the input in pixels.
        mpp: µm per pixel that its authors recommend (0.5 is 20x).
        mean: channel means on the 0..1 scale.
        std: channel standard deviations.
        licence: of the weights.
        paper: what to cite.
        where: page with the weights.
        file: name of the file there.
        gated: whether access must be requested.
        repo: the page's id on the Hugging Face hub, whose local cache is searched too.
        package: module of a pip package that holds `file`, and the extra of past-core that installs it.
    """

    architecture: str
    build: Callable[[], nn.Module]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    ignored: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    dim: int
    embedding: str
    image_size: int = 224
    mpp: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    licence: str
    paper: str
    where: str
    file: str
    gated: bool = False
    repo: str | None = None
    package: tuple[str, str] | None = None

    def config(self) -> ImageEncoderConfig:
        """The input it takes, as an image encoder's configuration."""
        return ImageEncoderConfig(
            name=self.architecture,
            image_size=self.image_size,
            mpp=self.mpp,
            mean=self.mean,
            std=self.std,
            options=dict(self.options),
        )
