"""Verbs that past-vihc adds to the `past` command."""

import importlib

import typer

VERBS = ("agreement", "calibrate", "hscore", "stain")
"""`past_vihc.commands.VERB` holds a function of the same name."""


def register(app: typer.Typer) -> None:
    """Adds this package's verbs to `app`; called through the entry-point group `past.commands`."""
    for verb in VERBS:
        app.command(name=verb)(getattr(importlib.import_module(f"past_vihc.commands.{verb}"), verb))
