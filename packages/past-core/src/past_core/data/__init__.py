"""Region supply, batches and the pretraining DataModule."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from past_core.data.datamodule import PretrainDataModule

__all__ = ["PretrainDataModule"]


def __getattr__(name: str) -> object:
    # Imported on demand: the supply serves inference too, which must not import Lightning.
    if name == "PretrainDataModule":
        from past_core.data.datamodule import PretrainDataModule

        return PretrainDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
