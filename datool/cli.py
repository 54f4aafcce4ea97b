"""The commands: parse, call one job, draw what it returns. Nothing here knows how depth is made."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from datool import __version__
from datool.errors import DatoolError

if TYPE_CHECKING:
    from tqdm import tqdm

    from datool.jobs.evaluate import BenchResult, EvalSummary
    from datool.jobs.evaluate import Progress as EvalProgress
    from datool.jobs.predict import PredictSummary, Progress

FAILED, INTERRUPTED = 1, 130
# Failures that are listed one by one; the manifest has them all.
LISTED = 20
# Between lines of progress where stderr is no terminal.
LINE_EVERY_S = 10.0


class _Commands(TyperGroup):
    """Turns what is expected to go wrong into a message and an exit code, for every command."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DatoolError as error:
            _say("error", error.problem, "bold red")
            if error.hint:
                _say("hint", error.hint, "cyan")
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            _say("interrupted", "what is finished is kept; the same command goes on from there.", "bold red")
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=_Commands,
    name="datool",
    help="Monocular depth: depth maps from photos.",
    epilog="Example: datool predict photos/ --out depth/",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    app()


# Options that mean the same in every command

Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder; made if it is not there.", show_default=False)
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE|FOLDER",
        help="A name (v2-small, tiny, ...), a weight file, a folder with model.safetensors, NAME=FILE, or auto: what "
        "OUT already holds, else Depth Anything V2 Small if cached or to be fetched, else the bundled tiny.",
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto (cuda, else mps, else cpu), cuda, cuda:1, mps or cpu.")]
Precision = Annotated[
    str,
    typer.Option(metavar="NAME", help="fp32, bf16, fp16, or auto: bf16 where the device computes it, else fp32."),
]
BatchSize = Annotated[
    str, typer.Option(metavar="N", help="Photos a forward: a number, or auto (1 on a CPU, what fits on a GPU).")
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="PX",
        help="Short side of the network's input in pixels; default: the model's (518 for the published ones).",
        min=1,
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do finished images again and replace files in the way.")]
MaxPixels = Annotated[int, typer.Option(metavar="N", help="Photos with more pixels fail.", min=1)]
MaxAspect = Annotated[float, typer.Option(metavar="RATIO", help="Photos more elongated than this to 1 fail.", min=1.0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; warnings and errors stay.")]


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


@app.command(epilog="Example: datool predict photos/ 'more/**/*.jpg' --out depth/ --format png16,npy,color")
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS...",
            help="Photos, folders (recursive), globs in quotes, .txt lists (a path a line), or - for paths on stdin.",
            show_default=False,
        ),
    ],
    out: Out,
    model: Model = "auto",
    format: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Comma-separated: png16 (decodes alone), npy, npz, exr, exr-half, tiff, pfm; pictures: color, "
            "color-inferno, color-turbo, grey, side-by-side.",
        ),
    ] = "png16,color",
    size: Size = None,
    precision: Precision = "auto",
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    overwrite: Overwrite = False,
    max_pixels: MaxPixels = 200_000_000,
    max_aspect: MaxAspect = 8.0,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail where --model auto would take the bundled tiny.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the depth of photos, sub-folders mirrored, and OUT/manifest.jsonl with a row a photo.

    A rerun skips what is finished. Photos that fail are listed, the others are written whole.
    """
    from datool.jobs.predict import PredictOptions
    from datool.jobs.predict import predict as job

    options = PredictOptions(
        inputs=inputs,
        out=out,
        model=model,
        formats=[name.strip() for name in format.split(",") if name.strip()],
        size_px=size,
        precision=precision,
        device=device,
        batch_size=int(batch_size) if batch_size.isdecimal() else batch_size,
        overwrite=overwrite,
        max_pixels=max_pixels,
        max_aspect=max_aspect,
        fallback=not no_fallback,
    )
    with _Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        failed = [{"input": path, "reason": reason} for path, reason in summary.failed]
        typer.echo(json.dumps(asdict(summary) | {"failed": failed}, default=str))
    elif not quiet:
        _draw_predict(summary)
    if summary.failed:
        _list_failed(dict(summary.failed), out)
        raise typer.Exit(FAILED)


@app.command("train-teacher", epilog="Example: datool train-teacher --recipe nano --out runs/nano --set steps=200")
def train_teacher(
    out: Out,
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="tiny (the model that ships), nano (seconds), or a recipe.json.")
    ] = "tiny",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a field of the recipe; repeatable.", show_default=False
        ),
    ] = None,
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
    with _Bar(quiet) as bar:
        summary = train(chosen, out, resume, device, lambda line: bar.step(line, chosen.steps))
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        _draw_rows(
            {
                "weights": str(summary.weights),
                "steps": f"{summary.steps}, {summary.seconds:.0f} s",
                "held-out": f"AbsRel {summary.abs_rel:.3f}, delta1 {summary.delta1:.3f}",
            }
        )


@app.command("eval", epilog="Example: datool eval --bench da2k --root da2k=DA-2K --model v2-small")
def evaluate(
    bench: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Comma-separated: da2k, nyu, kitti, sintel, ddad, eth3d, diode, ibims, or all that are found.",
            show_default=False,
        ),
    ] = "",
    root: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DIR",
            help="Where a data set is; else $DATOOL_DATA/NAME or data/NAME. Repeatable.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|FOLDER",
            help="A name (v2-small, tiny, ...), a weight file, a folder with model.safetensors, or NAME=FILE; no auto.",
            show_default=False,
        ),
    ] = "",
    predictions: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|PATTERN",
            help="Saved maps instead of a model: an output of datool predict, a folder of npy, npz, exr, tiff, pfm or "
            "16-bit png named as the images, or a pattern such as 'maps/{id}_depth.npy' ({stem}: its last part).",
            show_default=False,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Own data instead of --bench: lines of {"image": ..., "depth": ...}.',
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="lsq-disparity, da-v2-reconstructed, midas, marigold, moge-disparity, zoe-metric or v2-metric; "
            "default: the benchmark's, lsq-disparity for --manifest. Pairs of points (da2k) have one.",
            show_default=False,
        ),
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a field of the protocol: crop, far, alignment, metrics, ... Repeatable.",
            show_default=False,
        ),
    ] = None,
    quantity: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of saved maps that do not say: depth or disparity.", show_default=False),
    ] = None,
    ambiguity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of saved maps that do not say: none (metres), scale or scale-and-shift.",
            show_default=False,
        ),
    ] = None,
    divisor: Annotated[
        float | None,
        typer.Option(metavar="N", help="Of 16-bit png of other programs: value = pixel / N.", show_default=False),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a row an image; a rerun goes on from what is there.", show_default=False
        ),
    ] = None,
    size: Size = None,
    precision: Precision = "auto",
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes for saved maps; 0 = one a CPU core.", min=0)] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model or saved maps against a benchmark or own data, with the protocol beside every number.

    Images that cannot be scored are counted and named; the mean is over the others.
    """
    from datool.depth import Ambiguity, Quantity
    from datool.errors import lookup
    from datool.jobs.evaluate import EvalOptions
    from datool.jobs.evaluate import evaluate as job

    quantities = {item.value: item for item in Quantity}
    ambiguities = {item.value: item for item in Ambiguity}
    options = EvalOptions(
        bench=[name.strip() for name in bench.split(",") if name.strip()],
        manifest=manifest,
        model=model,
        predictions=predictions,
        quantity=None if quantity is None else lookup(quantities, quantity, "quantity"),
        ambiguity=None if ambiguity is None else lookup(ambiguities, ambiguity, "ambiguity"),
        divisor=divisor,
        roots={name: Path(place) for name, place in _pairs(root, "--root", "NAME=DIR").items()},
        protocol=protocol,
        overrides=_pairs(settings, "--set", "KEY=VALUE"),
        csv=csv,
        size_px=size,
        precision=precision,
        device=device,
        batch_size=int(batch_size) if batch_size.isdecimal() else batch_size,
        workers=workers,
    )
    with _Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        typer.echo(summary.to_json())
    elif not quiet:
        _draw_eval(summary)
    failed = [(result.bench, id, reason) for result in summary.results for id, reason in result.failed]
    for name, id, reason in failed[:LISTED]:
        _say("failed", f"{name} {id}: {reason}", "red")
    if len(failed) > LISTED:
        _say("failed", f"{len(failed) - LISTED} more; --csv FILE and --json list them all", "red")
    if failed:
        raise typer.Exit(FAILED)


def _pairs(given: list[str] | None, option: str, form: str) -> dict[str, str]:
    """Return the names and values of a repeatable option."""
    pairs = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"got '{text}', expected {form}.", param_hint=option)
        pairs[name] = value
    return pairs


def _draw_eval(summary: EvalSummary) -> None:
    """Print a table a benchmark: ours, groups, and what was published; under it, how it was measured."""
    for name, reason in summary.missing.items():
        _say("note", f"{name} passed over: {reason}", "yellow")
    for result in summary.results:
        _draw_result(result, summary)


def _draw_result(result: BenchResult, summary: EvalSummary) -> None:
    from datool.evaluation.metrics import METRICS

    titles = {name: METRICS[name].title for name in result.fields["metrics"]}
    ours = [[title, _number(result.values.get(name))] for name, title in titles.items()]
    _draw_numbers([result.bench, "scored here"], ours)
    groups = [
        [name, f"{values['weight']:.0f}", *(_number(values[metric]) for metric in titles)]
        for name, values in result.groups.items()
    ]
    _draw_numbers(["group", "weight", *titles.values()], groups)
    tables = [table.values for table in result.published]
    shown = [name for name in titles if any(name in values for table in tables for values in table.values())]
    printed = [
        [model + ("" if table.reproducible else " *"), table.protocol, *(_number(values.get(name)) for name in shown)]
        for table in result.published
        for model, values in table.values.items()
        if values.keys() & set(shown)
    ]
    _draw_numbers(["published", "protocol", *(titles[name] for name in shown)], printed)
    fields = ", ".join(f"{name} {_field(value)}" for name, value in result.fields.items() if name != "metrics")
    counts = {"images": result.num_images, "scored": result.num_scored, **result.failures}
    rows = {
        "of": summary.predictor,
        "on": f"{result.title}, {result.root}",
        "images": ", ".join(f"{count} {name}" for name, count in counts.items()),
        "flagged": ", ".join(f"{count} {flag}" for flag, count in result.flags.items()),
        "protocol": f"{result.protocol} {result.protocol_sha256} (datool {summary.version}): {fields}",
    }
    for published in result.published:
        note = "reproducible" if published.reproducible else "* not reproducible"
        rows[f"{published.source}, {note}"] = published.why
    _draw_rows({name: value for name, value in rows.items() if value})


def _draw_numbers(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print names and their numbers; nothing without rows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _field(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"


models = typer.Typer(help="List the models that datool knows by name, or fetch one.")
app.add_typer(models, name="models")


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

    typer.echo(job(name, lambda line: None if quiet else _say("note", line, "yellow")))


def _draw_predict(summary: PredictSummary) -> None:
    """Print the table of what was done."""
    rate = f"{summary.done} at {summary.images_per_s:.1f} images/s" if summary.done else "0"
    rows = {
        "written": f"{rate}, {summary.seconds:.1f} s in all",
        "skipped": f"{summary.skipped}, finished earlier" if summary.skipped else "",
        "failed": str(len(summary.failed)) if summary.failed else "",
        "model": f"{summary.model} ({summary.licence})" if summary.licence else summary.model,
        "with": f"{summary.device}, {summary.precision}, short side {summary.size_px}",
        "in": f"{summary.out} ({', '.join(summary.formats)}, manifest.jsonl)",
    }
    _draw_rows({name: value for name, value in rows.items() if value})


def _draw_rows(rows: Mapping[str, str]) -> None:
    """Print a summary: a name and a value a line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    Console(highlight=False).print(table)


def _list_failed(failed: Mapping[str, str], out: Path) -> None:
    for path, reason in list(failed.items())[:LISTED]:
        _say("failed", reason if path in reason else f"{path}: {reason}", "red")
    if len(failed) > LISTED:
        _say("failed", f"{len(failed) - LISTED} more, listed in {out / 'manifest.jsonl'}", "red")


def _say(label: str, text: str, style: str) -> None:
    """Write one labelled line to stderr; ``text`` may hold anything, file names with newlines and brackets too."""
    from rich.console import Console
    from rich.text import Text

    printable = text.encode("utf-8", "backslashreplace").decode()
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble((f"{label}: ", style), printable))


class _Bar:
    """Progress on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: tqdm[Any] | None = None
        self.started = self.said = time.monotonic()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, progress: Progress | EvalProgress) -> None:
        """Draw what a job reports."""
        if progress.message:
            _say("note", progress.message, "yellow")
        elif not self.quiet and progress.todo:
            if sys.stderr.isatty():
                self._draw(progress)
            else:
                self._write(progress)

    def step(self, line: Mapping[str, float], steps: int) -> None:
        """Draw a line of a training log: ``step`` of ``steps``, and the figures beside it."""
        if self.quiet:
            return
        figures = ", ".join(f"{name} {value:.4g}" for name, value in line.items() if name != "step")
        if not sys.stderr.isatty():
            _say("step", f"{line['step']} of {steps}: {figures}", "dim")
            return
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=int(line["step"]), unit="step", dynamic_ncols=True)
        self.bar.update(line["step"] - self.bar.n)
        self.bar.set_postfix_str(figures)

    def _draw(self, progress: Progress | EvalProgress) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=progress.todo, unit="img", dynamic_ncols=True)
        if self.bar.total != progress.todo:  # the next of several sets
            self.bar.reset(total=progress.todo)
        self.bar.update(progress.done + progress.failed - self.bar.n)
        if progress.failed:
            self.bar.set_postfix_str(f"{progress.failed} failed", refresh=False)

    def _write(self, progress: Progress | EvalProgress) -> None:
        now, count = time.monotonic(), progress.done + progress.failed
        if count == 0:
            self.started = self.said = now
        elif now - self.said >= LINE_EVERY_S:
            self.said, rate = now, count / (now - self.started)
            left_s = (progress.todo - count) / rate
            _say("progress", f"{count} of {progress.todo}, {rate:.1f} images/s, {left_s:.0f} s left", "dim")
