"""The settings of an evaluation by name, as splits of the given slides."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from past_core.errors import PastError
from past_genex.data.slides import ExpressionSlide

if TYPE_CHECKING:
    from past_genex.data.splits import Split


class UnknownSettingError(PastError, ValueError):
    """A name that is no setting's."""


def build_split(setting: str, slides: Sequence[ExpressionSlide], *, rim_um: float) -> "Split":
    """A split by the name of its setting.

    Args:
        setting: "intra" (held-out regions of each patient), "inter" (held-out patients of a cancer type),
            "cross" (held-out cancer types, of those with two patients or more), "cross-figure" (held-out
            cancer types, all of them), "patients" (each patient in turn, whatever the type), or "random"
            (cells dealt at random: leaks, to show what that adds).
        slides: the slides.
        rim_um: width of the buffer between training and test cells of one slide: the widest field that an
            encoder sees.

    Raises:
        UnknownSettingError: another name.
        SplitError: the slides do not allow it.
    """
    from past_genex.data import splits

    makers: dict[str, Callable[[], Split]] = {
        "intra": lambda: splits.intra_patient(slides, rim_um=rim_um),
        "inter": lambda: splits.inter_patient(slides),
        "cross": lambda: splits.cross_cancer(slides),
        "cross-figure": lambda: splits.cross_cancer(slides, variant="figure"),
        "patients": lambda: splits.leave_patients_out(slides),
        "random": lambda: splits.random_cells(slides),
    }
    if setting not in makers:
        raise UnknownSettingError(f"no setting {setting!r}; expected one of {', '.join(makers)}")
    return makers[setting]()


def encoder_field_um(name: str) -> float:
    """Side of the field that an encoder sees in µm; its weights need not be here.

    Raises:
        EncoderError, EncoderNotFoundError: see `load_image_encoder`.
    """
    from past_core.encoders import load_image_encoder
    from past_core.encoders.registry import IMAGE_ENCODERS

    if name in IMAGE_ENCODERS:
        return IMAGE_ENCODERS[name].image_size * IMAGE_ENCODERS[name].mpp
    return load_image_encoder(name).field_um
