"""What the dual encoder is made of: both sides and what joins them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from past_core.models.cell_config import CellEncoderConfig
from past_core.models.errors import ModelError
from past_core.models.image_encoder import ImageEncoderConfig

PUBLISHED_VOCABULARY = 20_340


@dataclass(frozen=True)
class DualEncoderConfig:
    """Both encoders and what joins them.

    Args:
        image: the image encoder.
        cell: the cell encoder.
        projection_dim: channels of the joint space.
        projection_dropout: dropout in the projection heads.
        temperature: initial temperature.
        temperature_min: smallest temperature; at a bound the gradient stays alive.
        temperature_max: largest temperature.
        temperature_form: "log", the logarithm is learned, and the gradient passes the bounds; "clamped", the
            published code's: the temperature itself, without gradient beyond the bounds.
    """

    image: ImageEncoderConfig
    cell: CellEncoderConfig
    projection_dim: int = 256
    projection_dropout: float = 0.1
    temperature: float = 0.07
    temperature_min: float = 0.01
    temperature_max: float = 1.0
    temperature_form: Literal["log", "clamped"] = "log"

    def __post_init__(self) -> None:
        if not 0 < self.temperature_min <= self.temperature <= self.temperature_max:
            msg = (
                f"temperature {self.temperature} must be positive and lie in "
                f"[{self.temperature_min}, {self.temperature_max}]"
            )
            raise ModelError(msg)
        if self.projection_dim < 2 or not 0 <= self.projection_dropout < 1:
            msg = (
                f"projection_dim {self.projection_dim} < 2 or dropout {self.projection_dropout} not in [0, 1)"
            )
            raise ModelError(msg)
        if self.temperature_form not in ("log", "clamped"):
            msg = f"temperature_form={self.temperature_form!r} is not known; expected 'log' or 'clamped'"
            raise ModelError(msg)

    @classmethod
    def published(
        cls, *, graph: bool = True, mpp: float = 0.25, vocabulary_size: int = PUBLISHED_VOCABULARY
    ) -> Self:
        """The published checkpoint's networks; docs/published.md lists where they depart from the paper.

        Train them with the loss's `targets="published"`, and make tokens as `published_tokens` does.

        Args:
            graph: with the graph branch (`PASTModelGraph`), or without it (`PASTModel`).
            mpp: µm per pixel of the patches. The release cut them at each slide's own, 0.2 to 0.5.
            vocabulary_size: number of token ids: of the 20,310 genes and 30 special tokens.
        """
        image = ImageEncoderConfig(mpp=mpp, options={"init_values": 1e-5, "dynamic_img_size": True})
        cell = CellEncoderConfig(
            vocabulary_size=vocabulary_size,
            graph_layers=2 if graph else 0,
            graph_heads=1,
            max_tokens=300,
            spare_tokens=5,
            pool="positions",
            graph_input="token_ids",
            graph_edges="complete",
            graph_distances=False,
            graph_widths=(256, 512) if graph else None,
            graph_last_norm=True,
            graph_hidden_dropout=0.1,
            fusion_bias=(0.0, -1.0),
            pad_embedding="random",
            initialization="published",
            context_order=("modality", "assay", "organism"),
            missing_means="one",
            dead_tensors=True,
        )
        return cls(image=image, cell=cell, temperature_form="clamped")

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], *, keep_weights: bool = False) -> Self:
        """The configuration that `dataclasses.asdict` wrote (JSON's lists become tuples again).

        Args:
            stored: plain values.
            keep_weights: keep the path of the image encoder's initial weights. A checkpoint holds all
                weights itself, and that file need not exist where it is loaded.

        Raises:
            ModelError: a key is missing or unknown.
        """

        def build(kind: type, values: Any, **changes: Any) -> Any:
            known = {field.name for field in fields(kind)}
            if not isinstance(values, Mapping) or set(values) - known:
                unknown = sorted(set(values) - known) if isinstance(values, Mapping) else values
                msg = (
                    f"the stored {kind.__name__} has unknown keys: {unknown}; was it made by a newer version?"
                )
                raise ModelError(msg)
            plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
            try:
                return kind(**{**plain, **changes})
            except TypeError as error:
                msg = f"the stored {kind.__name__} is incomplete: {error}"
                raise ModelError(msg) from error

        if not isinstance(stored, Mapping) or not {"image", "cell"} <= set(stored):
            msg = "the stored model configuration lacks `image` or `cell`"
            raise ModelError(msg)
        image = build(ImageEncoderConfig, stored["image"], **({} if keep_weights else {"weights": None}))
        return build(cls, stored, image=image, cell=build(CellEncoderConfig, stored["cell"]))
