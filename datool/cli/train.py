"""``datool train-teacher``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from datool.cli.draw import Bar, draw_rows
from datool.cli.options import Device, Json, Out, Quiet, Settings


def train_teacher(
    out: Out,
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="tiny (the model that ships), nano (seconds), or a recipe.json.")
    ] = "tiny",
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT, by its own recipe.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on rendered scenes with exact depth; the best weights are OUT/best.safetensors.

    OUT also gets recipe.json, log.jsonl and last.ckpt, from which --resume goes on after a kill.
    """
    if resume and settings:
        raise typer.BadParameter("a run is resumed by its own recipe; leave --set out.", param_hint="--set")
    from datool.jobs.train import train
    from datool.training.recipes import override, read_recipe

    chosen = override(read_recipe(str(out / "recipe.json") if resume else recipe), settings or [])
    with Bar(quiet) as bar:
        summary = train(chosen, out, resume, device, lambda line: bar.step(line, chosen.steps))
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        draw_rows(
            {
                "weights": str(summary.weights),
                "steps": f"{summary.steps}, {summary.seconds:.0f} s",
                "held-out": f"AbsRel {summary.abs_rel:.3f}, delta1 {summary.delta1:.3f}",
            }
        )
