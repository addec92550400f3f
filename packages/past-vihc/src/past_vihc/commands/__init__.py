"""Verbs that past-vihc adds to the `past` command."""

import typer

from past_core.commands.verbs import add_verbs

VERBS = ("stain", "hscore", "calibrate", "agreement")
"""`past_vihc.commands.VERB` holds a function of the same name."""


def register(app: typer.Typer) -> None:
    """Adds this package's verbs to `app`; called through the entry-point group `past.commands`."""
    add_verbs(app, "past_vihc.commands", VERBS, panel="Virtual IHC (past-vihc)")
