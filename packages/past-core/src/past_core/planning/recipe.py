"""Reading recipes as the `lightning` command merges them, without building what they describe."""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningCLI

from past_core.errors import PastError
from past_core.models.dual_encoder import DualEncoderConfig

PRETRAINING = "past_core.pretrain.ContrastivePretraining"


class RecipeError(PastError, ValueError):
    """Recipes that `lightning fit` would refuse, or that are not recipes of pretraining."""


class RecipeNotFoundError(PastError, FileNotFoundError):
    """There is no recipe at the path."""


@dataclass(frozen=True)
class Recipe:
    """A merged recipe of pretraining, with every default filled in."""

    trainer: dict[str, Any]
    model: dict[str, Any]
    """Arguments of `ContrastivePretraining`."""
    data: dict[str, Any]
    """Arguments of `PretrainDataModule`."""

    def config(self, *, vocabulary_size: int) -> DualEncoderConfig:
        """The networks, their vocabulary and longest cell as training fills them in from its data."""
        names = {field.name for field in fields(DualEncoderConfig)}
        stored = {key: value for key, value in self.model.items() if key in names}
        cell = {**stored["cell"], "vocabulary_size": vocabulary_size, "max_genes": self.data["max_genes"]}
        return DualEncoderConfig.from_dict({**stored, "cell": cell})


class _Reader(LightningCLI):
    """The `lightning` command up to the moment when it would build trainer, model and data."""

    def instantiate_classes(self) -> None:
        """Nothing is built."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


def read_recipe(paths: Sequence[Path], *, changes: Sequence[str] = ()) -> Recipe:
    """Merges recipes from left to right, as `lightning fit -c A -c B --KEY VALUE` does.

    Args:
        paths: the recipes; a later one is laid over those before it.
        changes: `KEY=VALUE` laid over all of them, e.g. "data.batch_size=64".

    Raises:
        RecipeNotFoundError: a file is missing.
        RecipeError: an unknown key, a value of the wrong kind, or a recipe of another task.
    """
    for path in paths:
        if not path.is_file():
            raise RecipeNotFoundError(
                f"no recipe at {path}; expected a YAML file such as recipes/pretrain.yaml"
            )
    arguments = ["fit"]
    for path in paths:
        arguments += ["-c", str(path)]
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set {change!r} has no '='; expected KEY=VALUE, e.g. data.batch_size=64")
        arguments.append(f"--{key.lstrip('-')}={value}")
    arguments.append("--seed_everything=false")  # reading must not seed the process
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            config = _Reader(args=arguments, seed_everything_default=False).config["fit"].as_dict()
    except SystemExit as error:
        raise RecipeError(f"{', '.join(map(str, paths))}: {_reason(said.getvalue())}") from error
    model, data = config["model"], config["data"]
    if model["class_path"] != PRETRAINING:
        raise RecipeError(
            f"{', '.join(map(str, paths))}: model is {model['class_path']}; only recipes of {PRETRAINING} "
            "can be planned"
        )
    return Recipe(config["trainer"], dict(model["init_args"]), dict(data["init_args"]))


def _reason(said: str) -> str:
    """What is wrong, out of the parser's usage, its list of all that it tried, and the value in full."""
    lines = [line.strip(" -") for line in said.partition("error: ")[2].splitlines()]
    noise = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")
    return " ".join(line for line in lines if line and not line.startswith(noise)) or said.strip()
