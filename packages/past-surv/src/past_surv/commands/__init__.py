"""Verbs that past-surv adds to the `past` command."""

import typer


def register(app: typer.Typer) -> None:
    """Adds this package's verbs to `app`; called through the entry-point group `past.commands`."""
