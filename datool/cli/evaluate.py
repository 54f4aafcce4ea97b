"""``datool eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import LISTED, Bar, draw_rows, draw_table, say
from datool.cli.options import BatchSize, Device, Json, Precision, Quiet, Roots, Size, number_or_text, pairs

if TYPE_CHECKING:
    from datool.jobs.evaluate import BenchResult, EvalSummary


def evaluate(
    bench: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Comma-separated: da2k, nyu, kitti, sintel, ddad, eth3d, diode, ibims, or all that are found.",
            show_default=False,
        ),
    ] = "",
    root: Roots = None,
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
        roots={name: Path(place) for name, place in pairs(root, "--root", "NAME=DIR").items()},
        protocol=protocol,
        overrides=pairs(settings, "--set", "KEY=VALUE"),
        csv=csv,
        size_px=size,
        precision=precision,
        device=device,
        batch_size=number_or_text(batch_size),
        workers=workers,
    )
    with Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        typer.echo(summary.to_json())
    elif not quiet:
        _draw_eval(summary)
    failed = [(result.bench, id, reason) for result in summary.results for id, reason in result.failed]
    for name, id, reason in failed[:LISTED]:
        say("failed", f"{name} {id}: {reason}", "red")
    if len(failed) > LISTED:
        say("failed", f"{len(failed) - LISTED} more; --csv FILE and --json list them all", "red")
    if failed:
        raise typer.Exit(1)


def _draw_eval(summary: EvalSummary) -> None:
    """Print a table a benchmark: ours, groups, and what was published; under it, how it was measured."""
    for name, reason in summary.missing.items():
        say("note", f"{name} passed over: {reason}", "yellow")
    for result in summary.results:
        _draw_result(result, summary)


def _draw_result(result: BenchResult, summary: EvalSummary) -> None:
    from datool.evaluation.metrics import METRICS

    titles = {name: METRICS[name].title for name in result.fields["metrics"]}
    ours = [[title, _number(result.values.get(name))] for name, title in titles.items()]
    draw_table([result.bench, "scored here"], ours)
    groups = [
        [name, f"{values['weight']:.0f}", *(_number(values[metric]) for metric in titles)]
        for name, values in result.groups.items()
    ]
    draw_table(["group", "weight", *titles.values()], groups)
    tables = [table.values for table in result.published]
    shown = [name for name in titles if any(name in values for table in tables for values in table.values())]
    printed = [
        [model + ("" if table.reproducible else " *"), table.protocol, *(_number(values.get(name)) for name in shown)]
        for table in result.published
        for model, values in table.values.items()
        if values.keys() & set(shown)
    ]
    draw_table(["published", "protocol", *(titles[name] for name in shown)], printed)
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
    draw_rows({name: value for name, value in rows.items() if value})


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _field(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"
