"""Systems by name."""

from collections.abc import Callable
from typing import Any

from past_core.encoders import load_encoders, load_image_encoder
from past_genex.systems.base import Surroundings, System, UnknownSystemError
from past_genex.systems.features import EncoderFeatures, ShuffledFeatures
from past_genex.systems.mean import MeanOfTraining
from past_genex.systems.neighbours import NearestInSpace
from past_genex.systems.retrieval import Retrieval
from past_genex.systems.ridge import RidgeProbe
from past_genex.systems.untrained import untrained_encoder


def _ridge(encoder: str, surroundings: Surroundings, **options: Any) -> System:
    features = EncoderFeatures(load_image_encoder(encoder, **options), surroundings)
    return RidgeProbe(f"ridge:{encoder}", features, surroundings)


def _untrained(encoder: str, surroundings: Surroundings, **options: Any) -> System:
    features = EncoderFeatures(untrained_encoder(encoder, seed=surroundings.seed, **options), surroundings)
    return RidgeProbe(f"untrained:{encoder}", features, surroundings)


def _shuffled(encoder: str, surroundings: Surroundings, **options: Any) -> System:
    inner = EncoderFeatures(load_image_encoder(encoder, **options), surroundings)
    features = ShuffledFeatures(inner, seed=surroundings.seed)
    return RidgeProbe(f"shuffled:{encoder}", features, surroundings)


def _retrieval(encoder: str, surroundings: Surroundings, **options: Any) -> System:
    from past_core.encoders.registry import IMAGE_ENCODERS
    from past_genex.systems.base import SystemUnavailableError

    if encoder in IMAGE_ENCODERS or encoder.startswith("timm:"):
        raise SystemUnavailableError(
            f"{encoder} has no joint space of images and cells; retrieval needs a checkpoint of PAST"
        )
    return Retrieval(*load_encoders(encoder, "joint"), surroundings, **options)


def _stnet(surroundings: Surroundings, **options: Any) -> System:
    from past_genex.systems.stnet import STNet

    return STNet(surroundings, **options)


WITH_ENCODER: dict[str, Callable[..., System]] = {
    "ridge": _ridge,
    "retrieval": _retrieval,
    "untrained": _untrained,
    "shuffled": _shuffled,
}
ALONE: dict[str, Callable[..., System]] = {
    "stnet": _stnet,
    "mean": MeanOfTraining,
    "neighbours": NearestInSpace,
}


def known_systems() -> str:
    """Every form that a name takes, for messages."""
    return ", ".join([*ALONE, *(f"{kind}:ENCODER" for kind in WITH_ENCODER)])


def check_name(name: str) -> None:
    """Refuses a name that is no system's, before any work.

    Raises:
        UnknownSystemError: so it is.
    """
    kind, _, encoder = name.partition(":")
    if name in ALONE or (kind in WITH_ENCODER and encoder):
        return
    if kind in WITH_ENCODER:
        raise UnknownSystemError(f"system {name!r} lacks its encoder; write {kind}:ENCODER, as {kind}:demo")
    raise UnknownSystemError(f"no system {name!r}; expected one of {known_systems()}")


def build_system(name: str, surroundings: Surroundings) -> System:
    """A system by name.

    Args:
        name: "mean", "neighbours", "stnet", or KIND:ENCODER with KIND one of ridge, retrieval, untrained and
            shuffled, and ENCODER what `load_image_encoder` takes, such as "demo", "uni" or a checkpoint.
        surroundings: what they share; `options[KIND]` are further arguments.

    Raises:
        UnknownSystemError: no such system.
        EncoderNotFoundError: the weights are not here; the message says how to get them.
        SystemUnavailableError: the encoder cannot do it.
    """
    check_name(name)
    kind, _, encoder = name.partition(":")
    options = dict(surroundings.options.get(kind, {}))
    if name in ALONE:
        return ALONE[name](surroundings, **options)
    return WITH_ENCODER[kind](encoder, surroundings, **options)
