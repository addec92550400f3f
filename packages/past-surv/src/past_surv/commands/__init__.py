"""Verbs that past-surv adds to the `past` command."""

import importlib

import typer

VERBS = ("attribution", "bags", "gdc", "heatmap", "survival", "vectors")
"""`past_surv.commands.VERB` holds a function of the same name."""


def register(app: typer.Typer) -> None:
    """Adds this package's verbs to `app`; called through the entry-point group `past.commands`."""
    for verb in VERBS:
        app.command(name=verb)(getattr(importlib.import_module(f"past_surv.commands.{verb}"), verb))
