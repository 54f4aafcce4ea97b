"""The commands: parse, call one job, draw what it returns. Nothing here knows how depth is made."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from datool import __version__
from datool.cli.calibrate import calibrate
from datool.cli.data import data
from datool.cli.draw import say
from datool.cli.evaluate import evaluate
from datool.cli.export import export
from datool.cli.help import Commands, Typer
from datool.cli.models import models
from datool.cli.pointcloud import pointcloud
from datool.cli.predict import predict
from datool.cli.pseudo_label import pseudo_label
from datool.cli.train import train_command
from datool.errors import DatoolError

FAILED, INTERRUPTED = 1, 130


class _Commands(Commands):
    """Turns what is expected to go wrong into a message and an exit code, for every command."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DatoolError as error:
            say("error", error.problem, "bold red")
            if error.hint:
                say("hint", error.hint, "cyan")
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            say("interrupted", "what is finished is kept; the same command goes on from there.", "bold red")
            raise typer.Exit(INTERRUPTED) from error


app = Typer(
    cls=_Commands,
    name="datool",
    help="Monocular depth: depth maps from photos.",
    epilog="Example: datool predict photos/ --out depth/",
)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"datool {__version__}")
        raise typer.Exit


@app.callback()
def datool(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Monocular depth: depth maps from photos."""


USE, TRAIN, KNOW = "Use models", "Train and score models", "Data and models"

app.command(
    epilog="Example: datool predict photos/ 'more/**/*.jpg' --out depth/ --format npy,color",
    rich_help_panel=USE,
)(predict)
app.command(
    epilog="Example: datool pointcloud room.jpg --model v2-metric-indoor-small --out clouds",
    rich_help_panel=USE,
)(pointcloud)
app.command(epilog="Example: datool calibrate room.jpg --point 320,400,1.85 --point 90,210,4.2", rich_help_panel=USE)(
    calibrate
)
app.command(
    epilog="Example: datool export v2-small --format openvino --precision bf16 --out v2.xml", rich_help_panel=USE
)(export)
app.command(
    "pseudo-label",
    epilog="Example: datool pseudo-label photos/ --model v2-large --out labels",
    rich_help_panel=TRAIN,
)(pseudo_label)
app.command(
    "train-teacher",
    epilog="Example: datool train-teacher --recipe nano --out runs/nano --set steps=200",
    rich_help_panel=TRAIN,
)(
    train_command(
        "teacher-v2",
        "Train a model on true depth.",
        "Recipes: teacher-v2, teacher-v1; on rendered scenes: nano, nano-teacher, tiny.",
    )
)
app.command(
    "train-student",
    epilog="Example: datool train-student --data labels/manifest.jsonl --out student",
    rich_help_panel=TRAIN,
)(
    train_command(
        "student-v2",
        "Train a model on a teacher's labels.",
        "Recipes: student-v2, student-v2-stable, student-v1; small ones: nano-student-v1, nano-student-v2.",
    )
)
app.command(
    "train-metric",
    epilog="Example: datool train-metric --init v2-base --out metric",
    rich_help_panel=TRAIN,
)(
    train_command(
        "metric-indoor",
        "Fine-tune a relative model to predict metres.",
        "Recipes: metric-indoor (up to 20 m), metric-outdoor (up to 80 m); a small one: nano-metric.",
    )
)
app.command(
    "eval",
    epilog="Example: datool eval --bench da2k --model v2-small --priors",
    rich_help_panel=TRAIN,
)(evaluate)
app.add_typer(data, name="data", rich_help_panel=KNOW)
app.add_typer(models, name="models", rich_help_panel=KNOW)
