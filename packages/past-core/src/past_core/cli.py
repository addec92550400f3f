"""The two commands: `lightning` trains, `past` does everything else."""

import importlib
import keyword
import logging
import sys
import warnings
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import typer

from past_core.errors import PastError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

VERBS = (
    "demo",
    "register",
    "ingest",
    "view",
    "catalogue",
    "qc",
    "info",
    "summary",
    "plan",
    "embed",
    "export",
    "import",
    "encoders",
)
"""Verbs of past-core: `past_core.commands.VERB` holds a function of the same name (`import_` for import)."""

COMMANDS_GROUP = "past.commands"
"""Entry-point group through which the sibling packages add their verbs: `register(app)`."""


def build_app() -> typer.Typer:
    """Assembles `past`: past-core's verbs and those of every installed sibling package."""
    app = typer.Typer(
        name="past",
        help="PAST: single cells from histology and spatial transcriptomics.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def options(*, verbose: bool = typer.Option(False, "--verbose", "-v", help="Log every step.")) -> None:
        logging.basicConfig(
            level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s"
        )

    for verb in VERBS:
        name = f"{verb}_" if keyword.iskeyword(verb) else verb
        module = importlib.import_module(f"past_core.commands.{name}")
        app.command(name=verb)(getattr(module, name))
    for entry_point in sorted(entry_points(group=COMMANDS_GROUP), key=lambda point: point.name):
        entry_point.load()(app)
    return app


def past_main() -> None:
    """Runs `past`; PAST's own errors become one message and exit status 1."""
    _quiet_libraries()
    try:
        build_app()()
    except PastError as error:
        typer.secho(f"Error: {error}", err=True, fg="red")
        sys.exit(1)


def run_lightning(args: list[str] | None = None) -> "LightningCLI":
    """Runs LightningCLI on `args` (`sys.argv` without) and returns it with its trainer."""
    from past_core.training.lightning_cli import TrainingCLI

    return TrainingCLI(args)


def lightning_main() -> None:
    """Runs `lightning fit|validate|test|predict -c recipes/X.yaml`."""
    _quiet_libraries()
    # Say what takes time (the embedded default is made on the first run) and what was found in the slides.
    logger = logging.getLogger("past_core")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
    try:
        run_lightning()
    except Exception as error:
        own = _past_error(error)
        if own is None:
            raise
        typer.secho(f"Error: {own}", err=True, fg="red")
        sys.exit(1)


def _past_error(error: BaseException | None) -> PastError | None:
    """PAST's own error, also where jsonargparse wrapped it while building a recipe's classes."""
    while error is not None and not isinstance(error, PastError):
        error = error.__cause__ or error.__context__
    return error


def _quiet_libraries() -> None:
    """Silences what libraries say to one another and no user can act on."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip: For seamless cloud" not in record.getMessage()
    )
