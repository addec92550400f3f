"""The encoder whose vectors condition the generator: as trained, or its architecture with random weights."""

import dataclasses

import torch

from past_core.encoders import load_image_encoder
from past_core.encoders.registry import IMAGE_ENCODERS
from past_core.frozen import FrozenEncoder
from past_core.models.image_encoder import ImageEncoder

RANDOM = "random"
"""The value of `weights` that asks for random ones."""


def load_conditioner(name: str, weights: str | None = None, *, seed: int = 0) -> FrozenEncoder:
    """Loads the frozen encoder that conditions a generator.

    Args:
        name: as `load_image_encoder` takes it.
        weights: file of a public encoder's weights; None looks in the usual places; "random" keeps
            architecture, input and normalisation and draws the weights anew: what the encoder's training adds
            is the difference.
        seed: of random weights; torch's own generator is left as it was.

    Raises:
        EncoderError, EncoderNotFoundError: see `load_image_encoder`.
    """
    if weights != RANDOM:
        return load_image_encoder(name, weights=weights)
    entry = IMAGE_ENCODERS.get(name)
    with torch.random.fork_rng(devices=[]):
        config = entry.config() if entry is not None else load_image_encoder(name).network.config
        torch.manual_seed(seed)
        network = entry.build() if entry is not None else None
        fresh = ImageEncoder(dataclasses.replace(config, weights=None), network)
    return FrozenEncoder(f"{name} ({RANDOM} weights)", fresh)
