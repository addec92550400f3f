"""The encoder of a training: published weights, or random ones where that is asked for."""

import dataclasses

import timm
import torch

from past_core.encoders import load_image_encoder
from past_core.encoders.registry import IMAGE_ENCODERS
from past_core.encoders.timm_names import MPP, TIMM
from past_core.frozen import EncoderError, EncoderNotFoundError, FrozenEncoder
from past_core.models.image_encoder import ImageEncoder, ImageEncoderConfig

SCRATCH = "none"
"""The value of `weights` that asks for random ones."""


def load_encoder(name: str, weights: str | None = None, *, seed: int = 0) -> FrozenEncoder:
    """Loads an image encoder to train on, or with.

    Args:
        name: as `load_image_encoder` takes it.
        weights: file of a public encoder's weights; None looks in the usual places, "none" starts from random
            ones, and the encoder's name says so.
        seed: of random weights; torch's own generator is left as it was.

    Raises:
        EncoderNotFoundError: no weights; the message has the steps, and how to do without.
        EncoderError: an unknown name, or "none" for a checkpoint, which has its weights in it.
    """
    if weights != SCRATCH:
        try:
            return load_image_encoder(name, weights=weights)
        except EncoderNotFoundError as error:
            if not _is_architecture(name):
                raise
            raise EncoderNotFoundError(
                f"{error}. In a training the path is data.weights, and nothing is downloaded. Or train from "
                f"scratch, which gives other results: data.weights: {SCRATCH} in the recipe, "
                f"--data.weights {SCRATCH} on the command line"
            ) from error
    if not _is_architecture(name):
        raise EncoderError(
            f"data.weights is {SCRATCH!r}, but {name} names weights and no architecture; give one of "
            f"{', '.join(IMAGE_ENCODERS)} or {TIMM}NAME, or leave data.weights out"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        entry = IMAGE_ENCODERS.get(name)
        if entry is not None:
            network = ImageEncoder(dataclasses.replace(entry.config(), weights=None), entry.build())
        else:
            network = ImageEncoder(_timm_config(name.removeprefix(TIMM)))
    return FrozenEncoder(f"{name} (from scratch)", network)


def _is_architecture(name: str) -> bool:
    return name in IMAGE_ENCODERS or name.startswith(TIMM)


def _timm_config(name: str) -> ImageEncoderConfig:
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is None:
        return ImageEncoderConfig(name=name)  # which is refused where it is built, with similar names
    red, green, blue = known.mean
    of_red, of_green, of_blue = known.std
    return ImageEncoderConfig(
        name=name,
        image_size=int(known.input_size[-1]),
        mpp=MPP,
        mean=(red, green, blue),
        std=(of_red, of_green, of_blue),
    )
