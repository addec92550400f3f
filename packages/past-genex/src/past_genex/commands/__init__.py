"""Verbs that past-genex adds to the `past` command."""

import typer

from past_core.commands.verbs import add_verbs

VERBS = ("probe", "predict", "cluster", "genex")
"""`past_genex.commands.VERB` holds a function of the same name."""


def register(app: typer.Typer) -> None:
    """Adds this package's verbs to `app`; called through the entry-point group `past.commands`."""
    add_verbs(app, "past_genex.commands", VERBS, panel="Gene expression (past-genex)")
