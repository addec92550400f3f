"""Verbs that past-surv adds to the `past` command."""

import typer

from past_core.commands.verbs import add_verbs

VERBS = ("bags", "vectors", "survival", "heatmap", "attribution", "gdc")
"""`past_surv.commands.VERB` holds a function of the same name."""


def register(app: typer.Typer) -> None:
    """Adds this package's verbs to `app`; called through the entry-point group `past.commands`."""
    add_verbs(app, "past_surv.commands", VERBS, panel="Survival (past-surv)")
