"""An encoder's architecture with fresh weights: what its training adds is the difference."""

import dataclasses

import torch

from past_core.encoders import load_image_encoder
from past_core.encoders.registry import IMAGE_ENCODERS
from past_core.frozen import FrozenEncoder
from past_core.models.image_encoder import ImageEncoder


def untrained_encoder(name: str, *, seed: int = 0) -> FrozenEncoder:
    """An encoder of the same architecture, input and normalisation with seeded random weights.

    For PAST this is PAST without contrastive pretraining. A public encoder's weights need not be here.

    Args:
        name: as `load_image_encoder` takes it.
        seed: of the weights; torch's own generator is left as it was.

    Raises:
        EncoderError, EncoderNotFoundError: see `load_image_encoder`.
    """
    entry = IMAGE_ENCODERS.get(name)
    with torch.random.fork_rng(devices=[]):
        config = entry.config() if entry is not None else load_image_encoder(name).network.config
        torch.manual_seed(seed)
        network = entry.build() if entry is not None else None
        fresh = ImageEncoder(dataclasses.replace(config, weights=None), network)
    return FrozenEncoder(f"untrained {name}", fresh)
