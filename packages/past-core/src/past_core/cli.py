"""The two commands: `lightning` trains, `past` does everything else."""

import logging
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, entry_points, version
from types import TracebackType
from typing import TYPE_CHECKING

import typer

from past_core.commands.claim import claims
from past_core.commands.verbs import add_verbs
from past_core.errors import PastError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

VERBS = {
    "Slides": ("demo", "register", "ingest", "qc", "view", "info", "summary", "catalogue"),
    "Encoders and training": ("encoders", "embed", "plan", "export", "import"),
}
"""Verbs of past-core by the title they stand under in `past --help`."""

COMMANDS_GROUP = "past.commands"
"""Entry-point group through which the sibling packages add their verbs: `register(app)`."""


def build_app() -> typer.Typer:
    """Assembles `past`: past-core's verbs and those of every installed sibling package."""
    app = typer.Typer(
        name="past",
        help="PAST: single cells from histology and spatial transcriptomics. "
        "`past VERB --help` says what a verb takes and gives; `lightning fit` trains.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def options(
        context: typer.Context,
        *,
        verbose: bool = typer.Option(False, "--verbose", "-v", help="Log every step: past -v VERB ..."),
        version: bool = typer.Option(
            False, "--version", callback=_show_versions, is_eager=True, help="Show the installed versions."
        ),
    ) -> None:
        context.with_resource(claims())
        logging.basicConfig(
            level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s"
        )

    for panel, verbs in VERBS.items():
        add_verbs(app, "past_core.commands", verbs, panel=panel)
    for entry_point in sorted(entry_points(group=COMMANDS_GROUP), key=lambda point: point.name):
        entry_point.load()(app)
    return app


def _show_versions(wanted: bool) -> None:
    """Prints the versions of what is installed, and ends."""
    if not wanted:
        return
    for name in ("past-core", "past-genex", "past-vihc", "past-surv", "torch"):
        try:
            typer.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} is not installed")
    typer.echo(f"Python {platform.python_version()}")
    raise typer.Exit


def past_main() -> None:
    """Runs `past`; PAST's own errors become one message and exit status 1."""
    _quiet_libraries()
    try:
        build_app()()
    except PastError as error:
        typer.secho(f"Error: {error}", err=True, fg="red")
        sys.exit(1)
    except OSError as error:
        # The system's own word on a file or a disk, that no verb foresaw: a share that went away, for one.
        logging.getLogger(__name__).info("where it happened:", exc_info=True)
        typer.secho(f"Error: {_named(error)} (past -v VERB ... says where)", err=True, fg="red")
        sys.exit(1)


def _named(error: OSError) -> str:
    """What the system said, with the file where it named one."""
    what = error.strerror or str(error) or type(error).__name__
    return what if error.filename is None else f"{error.filename}: {what}"


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
    _quiet_h5py()


def _quiet_h5py() -> None:
    """Silences h5py as it drops a file that a full disk broke: the verb's own error says so, once."""
    shown, ignored = sys.excepthook, sys.unraisablehook

    def dropped(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and "Can't decrement id ref count" in str(error)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # h5py calls this from within a function; Python, for an error that nobody caught, from none.
        if sys._getframe().f_back is None or not dropped(error):
            shown(kind, error, trace)

    def ignore(what: "sys.UnraisableHookArgs") -> None:
        if not dropped(what.exc_value):
            ignored(what)

    sys.excepthook, sys.unraisablehook = show, ignore
