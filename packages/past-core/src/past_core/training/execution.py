"""How a step is computed, which changes its speed and memory and not its mathematics."""

import logging

import torch

from past_core.models.dual_encoder import DualEncoder

logger = logging.getLogger(__name__)


def set_execution(
    model: DualEncoder,
    *,
    microbatch: int | None,
    activation_checkpointing: bool,
    compiled: bool,
    device: torch.device,
) -> None:
    """Applies the execution options of a recipe to a model.

    Args:
        model: the networks.
        microbatch: cells whose activations are held at a time; null holds those of the whole batch.
        activation_checkpointing: recompute each layer's activations in the backward pass.
        compiled: compile the layers of both encoders; left off on the CPU, where it costs more than it gains
            in a short run, with a line in the log.
        device: where the model will run.
    """
    model.microbatch = microbatch
    model.set_activation_checkpointing(activation_checkpointing)
    if not compiled:
        return
    if device.type == "cpu":
        logger.info("model.compile is left off: it pays on a GPU only, and this runs on the CPU")
        return
    logger.info("the %d layers of both encoders are compiled during the first steps", compile_layers(model))


def compile_layers(model: DualEncoder, *, backend: str = "inductor") -> int:
    """Compiles the transformer layers of both encoders, in place: names of weights stay as they are.

    Layer by layer, not whole networks: layers of equal shape share one compilation, and what surrounds them
    (chunks, gathering, checkpointing) stays ordinary Python. The cell transformer's layers are compiled for
    any length, for the length of a batch is that of its longest cell.

    Args:
        model: the networks.
        backend: of `torch.compile`.

    Returns:
        How many layers were found.
    """
    image = list(getattr(model.image_encoder.model, "blocks", []))
    cell = list(model.cell_encoder.layers)
    for layer in image:
        layer.compile(backend=backend)
    for layer in cell:
        layer.compile(backend=backend, dynamic=True)
    return len(image) + len(cell)
