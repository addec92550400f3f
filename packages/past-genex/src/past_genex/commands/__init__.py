"""Verbs that past-genex adds to the `past` command."""

import importlib

import typer

VERBS = ("cluster", "genex", "predict", "probe")
"""`past_genex.commands.VERB` holds a function of the same name."""


def register(app: typer.Typer) -> None:
    """Adds this package's verbs to `app`; called through the entry-point group `past.commands`."""
    for verb in VERBS:
        app.command(name=verb)(getattr(importlib.import_module(f"past_genex.commands.{verb}"), verb))
