"""``datool models`` and ``datool models get``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from datool.cli.draw import say
from datool.cli.help import IN_OUT, Typer
from datool.cli.options import Json, Quiet

models = Typer(help="List the models that datool knows by name, or download one.", no_args_is_help=False)


@models.callback(invoke_without_command=True, epilog="Example: datool models --json")
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List the models that datool knows by name: output, size, licence, and whether they are cached."""
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
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A name from `datool models`.", show_default=False, rich_help_panel=IN_OUT),
    ],
    quiet: Quiet = False,
) -> None:
    """Download the weights of a model into the hub's cache (HF_HOME), and print the file.

    For a machine without a network, copy the file there and give it as --model NAME=FILE.
    """
    from datool.jobs.models import get_model as job

    typer.echo(job(name, lambda line: None if quiet else say("note", line, "yellow")))
