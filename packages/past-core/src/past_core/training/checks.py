"""What must fit together before a training starts."""

from typing import Any

from past_core.errors import PastError
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.tokens import Vocabulary


class AccumulationError(PastError, ValueError):
    """Plain gradient accumulation, which is not what a contrastive loss needs."""


class PatchMismatchError(PastError, ValueError):
    """The DataModule cuts patches of another size or resolution than the image encoder takes."""


class TokenMismatchError(PastError, ValueError):
    """The DataModule makes other tokens than the cell encoder is configured for."""


class InitialWeightsError(PastError, ValueError):
    """The weights that training should start from are of other networks."""


def require_single_steps(accumulate_grad_batches: int) -> None:
    """Refuses plain gradient accumulation.

    Raises:
        AccumulationError: more than one batch a step.
    """
    if accumulate_grad_batches != 1:
        raise AccumulationError(
            f"trainer.accumulate_grad_batches is {accumulate_grad_batches}: that averages "
            "the losses of small batches, in which no cell meets the others' as negatives. Set "
            "data.batch_size to the batch you want and model.microbatch to the cells that fit in memory"
        )


def require_fitting_data(data: Any, image: ImageEncoderConfig, cell: CellEncoderConfig) -> None:
    """Compares what the DataModule makes with what the encoders take.

    Raises:
        PatchMismatchError: another size or resolution.
        TokenMismatchError: another order of the context, or other genes.
    """
    if (data.patch_size, data.mpp) != (image.image_size, image.mpp):
        raise PatchMismatchError(
            f"data cuts patches of {data.patch_size} px at {data.mpp} um/px, the image encoder takes "
            f"{image.image_size} px at {image.mpp} um/px; set data.patch_size and data.mpp to these"
        )
    made, taken = (data.context_order, data.missing_means), (cell.context_order, cell.missing_means)
    if made != taken:
        raise TokenMismatchError(
            f"data makes tokens with context_order and missing_means {made}, the cell encoder takes "
            f"{taken}; set data.context_order and data.missing_means to these"
        )


def start_from(model: DualEncoder, source: str, vocabulary: Vocabulary) -> None:
    """Takes all weights of what `load_model` finds at `source`.

    Raises:
        VocabularyError: made with another vocabulary.
        InitialWeightsError: of networks of another shape.
        CheckpointError, CheckpointNotFoundError: see `load_model`.
    """
    from past_core.checkpoint import load_model

    loaded = load_model(source)
    vocabulary.require(loaded.vocabulary.fingerprint)
    theirs, own = loaded.model.state_dict(), model.state_dict()
    shapes = [{key: tuple(value.shape) for key, value in state.items()} for state in (own, theirs)]
    problems = [key for key in {**own, **theirs} if shapes[0].get(key) != shapes[1].get(key)]
    if problems:
        raise InitialWeightsError(
            f"model.init_from {source}: {len(problems)} of {len(own)} weights are missing, left over or of "
            f"another shape, the first {problems[0]}; give model.image and model.cell the values of that "
            "checkpoint (`past info` shows them)"
        )
    model.load_state_dict(theirs)
