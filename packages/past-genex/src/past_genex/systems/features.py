"""Features of slides as systems take them: an encoder's, or an encoder's in a random order."""

import zlib
from typing import TYPE_CHECKING, Protocol

import numpy as np

from past_genex.data.features import slide_features
from past_genex.systems.base import Surroundings

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_genex.data.slides import ExpressionSlide


class Features(Protocol):
    """Features of a slide's usable cells.

    Attributes:
        name: of the encoder.
        fingerprint: of what they are, for caches.
        dim: d.
    """

    name: str
    fingerprint: str
    dim: int

    def of(self, slide: "ExpressionSlide") -> np.ndarray:
        """`(N, d)` float32."""
        ...


class EncoderFeatures:
    """A frozen encoder's, embedded once and kept.

    Args:
        encoder: the encoder; it is moved to the device.
        surroundings: cache, device and batch size.
    """

    def __init__(self, encoder: "FrozenEncoder", surroundings: Surroundings) -> None:
        self.encoder, self._surroundings = encoder, surroundings
        self.name, self.fingerprint, self.dim = encoder.name, encoder.fingerprint, encoder.dim

    def of(self, slide: "ExpressionSlide") -> np.ndarray:
        """See `Features`.

        Raises:
            EmbedError: a vector that is not finite.
        """
        from past_core.encoders import resolve_device

        self.encoder.to(resolve_device(self._surroundings.device))
        return slide_features(
            slide,
            self.encoder,
            cache=self._surroundings.cache,
            batch_size=self._surroundings.batch_size,
        )


class ShuffledFeatures:
    """Another's features with the cells of each slide in a random order: what chance gives.

    Args:
        inner: the features.
        seed: of the order; slides of different names are shuffled differently.
    """

    def __init__(self, inner: Features, *, seed: int = 0) -> None:
        self._inner, self._seed = inner, seed
        self.name, self.dim = f"shuffled {inner.name}", inner.dim
        self.fingerprint = f"{inner.fingerprint}-shuffled-{seed}"

    def of(self, slide: "ExpressionSlide") -> np.ndarray:
        """See `Features`."""
        stream = np.random.default_rng([self._seed, zlib.crc32(slide.name.encode())])
        return np.asarray(self._inner.of(slide))[stream.permutation(slide.n_cells)]
