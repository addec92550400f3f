"""What a diffusion's checkpoint says of itself, and whether it can go on with other data."""

from typing import Any

from past_vihc.files import GeneratorMismatchError

KEY = "past-vihc-diffusion"
"""The entry of a training checkpoint."""


def diffusion_record(data: Any, *, steps: int, conditioned: bool) -> dict[str, Any]:
    """What the network makes, and of what.

    Args:
        data: the data module: `stains`, `encoder`.
        steps: T.
        conditioned: whether embeddings are used.
    """
    encoder = data.encoder.fingerprint if conditioned else None
    return {"stains": list(data.stains), "steps": steps, "encoder": encoder}


def require_same_diffusion(saved: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Refuses a checkpoint of other stains, another encoder, or another number of steps.

    Raises:
        GeneratorMismatchError: names what differs.
    """
    if saved is None:
        raise GeneratorMismatchError("the checkpoint is of no diffusion; give one that this task wrote")
    different = [f"{name} {saved.get(name)}, now {now[name]}" for name in now if saved.get(name) != now[name]]
    if different:
        raise GeneratorMismatchError(
            f"the checkpoint was trained with {'; '.join(different)}; give the same data.stains, "
            "data.encoder and model.steps"
        )
