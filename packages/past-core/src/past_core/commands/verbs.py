"""How a verb joins `past`: groups of its options, examples below its help, words that the shell completes.

A module of a verb may hold, beside the function of the verb's name:

* `EXAMPLES`: a command that can be typed -> what it does, shown below the options
* `HELP_PANELS`: title -> names of the options under it; the rest stand under Options
* `COMPLETIONS`: name of an option -> words for it, beside those of `WORDS`
* `FORMER_NAMES`: what an option was called -> what it is called, so that old scripts run on
"""

import importlib
import inspect
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperCommand
from typer.models import ArgumentInfo, ParameterInfo

ENCODERS = (
    "demo",
    "uni",
    "conch",
    "ctranspath",
    "chief",
    "plip",
    "resnet50",
    "densenet121",
    "efficientnet-lite0",
)
"""Names of `past_core.encoders.IMAGE_ENCODERS` and the demo, written out: to import them takes seconds."""

QUALITY = (
    "xenium",
    "minimal",
    "min_counts=",
    "min_genes=",
    "max_control_fraction=",
    "min_area=",
    "max_area=",
    "nucleus=",
    "min_nucleus_ratio=",
    "max_nucleus_ratio=",
    "tissue=",
    "tissue_margin=",
    "border=",
    "min_density=",
    "max_density=",
    "doublet=",
    "max_doublet_score=",
    "focus=",
    "focus_z=",
    "focus_floor=",
    "focus_clear=",
    "haematoxylin=",
    "haematoxylin_level=",
    "seed=",
)
"""Presets of quality control, and its keys; likewise."""

RUNNING = ("device", "precision", "batch_size", "jobs", "dask", "seed")
"""Options that mean the same in every verb that has them."""

MANY = 10
"""Options of a verb beyond which those of `RUNNING` go under a title of their own."""


def encoder_names() -> list[str]:
    """Encoders known by name, with those that other installed packages declare."""
    return [*ENCODERS, *sorted(point.name for point in entry_points(group="past.encoders"))]


WORDS: dict[str, Iterable[str] | Callable[[], Iterable[str]]] = {
    "cancer_type": ("breast", "lung", "colorectal", "ovarian"),
    "device": ("auto", "cpu", "cuda", "cuda:0", "mps"),
    "encoder": encoder_names,
    "encoders": encoder_names,
    "marker": ("er", "pr", "ki67"),
    "normalisation": ("median", "10k", "none"),
    "organism": ("human", "mouse"),
    "qc": QUALITY,
    "segmenter": ("auto", "stardist", "watershed"),
}
"""Words that a shell completes, by the name of the option."""


def add_verbs(app: typer.Typer, package: str, verbs: Iterable[str], *, panel: str) -> None:
    """Adds verbs to `past`.

    Args:
        app: the command.
        package: its commands: `PACKAGE.VERB` holds a function of the verb's name (`import_` for import).
        verbs: their names.
        panel: title of their group in `past --help`.
    """
    for verb in verbs:
        name = f"{verb}_" if keyword.iskeyword(verb) else verb
        module = importlib.import_module(f"{package}.{name}")
        function = getattr(module, name)
        _name_arguments(function)
        _group(function, getattr(module, "HELP_PANELS", {}))
        _complete(function, WORDS | getattr(module, "COMPLETIONS", {}))
        app.command(
            name=verb,
            cls=_renaming(getattr(module, "FORMER_NAMES", {})),
            rich_help_panel=panel,
            epilog=_examples(getattr(module, "EXAMPLES", {})),
        )(function)


def completer(words: Iterable[str] | Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What completes a word, or the last of several with commas between."""

    def complete(incomplete: str) -> list[str]:
        head, comma, begun = incomplete.rpartition(",")
        known = words() if callable(words) else words
        return [f"{head}{comma}{word}" for word in known if word.startswith(begun)]

    return complete


def _parameters(function: Callable[..., None]) -> Iterator[tuple[str, ParameterInfo]]:
    for name, parameter in inspect.signature(function).parameters.items():
        for found in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(found, ParameterInfo):
                yield name, found


def _name_arguments(function: Callable[..., None]) -> None:
    """Arguments are written in capitals, as the texts call them."""
    for name, argument in _parameters(function):
        if isinstance(argument, ArgumentInfo) and argument.metavar is None:
            argument.metavar = name.strip("_").upper()


def _group(function: Callable[..., None], panels: Mapping[str, Iterable[str]]) -> None:
    options = dict(_parameters(function))
    shared = {"Running": RUNNING} if len(options) > MANY else {}
    for title, names in {**shared, **panels}.items():
        for name in names:
            if name in options:
                options[name].rich_help_panel = title


def _complete(
    function: Callable[..., None], words: Mapping[str, Iterable[str] | Callable[[], Iterable[str]]]
) -> None:
    for name, option in _parameters(function):
        if name in words and option.autocompletion is None:
            option.autocompletion = completer(words[name])


def _renaming(former: Mapping[str, str]) -> type[TyperCommand]:
    """A command that takes options under former names too, without showing them."""

    class Verb(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            renamed = []
            for word in args:
                name, equals, value = word.partition("=")
                renamed.append(former.get(name, name) + equals + value)
            return super().parse_args(ctx, renamed)

    return Verb


def _examples(examples: Mapping[str, str]) -> str | None:
    lines = [f"* `{command}`: {what}" for command, what in examples.items()]
    return "\n\n".join(["Examples:", *lines]) if lines else None
