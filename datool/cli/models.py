"""``datool models`` and ``datool models get``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from datool.cli.draw import say
from datool.cli.options import Json, Quiet

models = typer.Typer(help="List the models that datool knows by name, or fetch one.")


@models.callback(invoke_without_command=True, epilog="Example: datool models --json")
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List the models: size, licence, what their maps hold, what is cached."""
    if context.invoked_subcommand:
        return
    from datool.jobs.models import list_models as job

    infos = job()
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in infos]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "gives", "MB", "weights"):
        table.add_column(title, justify="right" if title == "MB" else "left", no_wrap=title != "weights")
    table.add_column("licence of the weights", overflow="fold")
    for info in infos:
        table.add_row(info.short, info.gives, str(info.size_mb or ""), info.place, info.licence)
    Console(highlight=False).print(table)


@models.command("get", epilog="Example: datool models get v2-small")
def get_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of the list.", show_default=False)],
    quiet: Quiet = False,
) -> None:
    """Fetch the weights of a model into the hub's cache (HF_HOME), and print the file: for machines without a network.

    On such a machine, give the copied file as --model NAME=FILE.
    """
    from datool.jobs.models import get_model as job

    typer.echo(job(name, lambda line: None if quiet else say("note", line, "yellow")))
