"""``datool eval``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import LISTED, Bar, draw_rows, draw_table, say
from datool.cli.help import DATA, IN_OUT, MODEL, REPORTS, SCORING, WORKERS
from datool.cli.options import (
    BatchSize,
    Device,
    Divisor,
    Invalid,
    Json,
    MapAmbiguity,
    MapQuantity,
    Precision,
    Quiet,
    Roots,
    Settings,
    Size,
    Workers,
    folders,
    listed,
    meaning,
    number_or_text,
    part,
    settings,
)

if TYPE_CHECKING:
    from datool.evaluation.compare import Comparison
    from datool.evaluation.results import BenchResult, EvalSummary, Speed
    from datool.jobs.evaluate.evaluate import EvalOptions

# Groups that a table lists; --json and --html have them all.
LISTED_GROUPS = 40
# What --priors sets beside each predictor.
PRIORS = ("prior:rows", "prior:constant")


def evaluate(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL|MAPS",
            help="With --compare: models, folders of saved maps, hf:REPO, marigold:REPO or python:MODULE:FUNCTION.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    bench: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Comma-separated benchmarks: da2k (fetched if it is not there), nyu, kitti, sintel, ddad, eth3d, "
            "diode, ibims; or all that are found.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = "",
    root: Roots = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|DIR",
            help="A model name (v2-small, tiny, ...), a weight file, a folder with model.safetensors, or NAME=FILE. "
            "From other projects: hf:REPO (transformers), marigold:REPO (diffusers) or python:MODULE:FUNCTION. "
            "prior:rows and prior:constant are maps that did not look. Default: auto, as `datool predict` has it.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = "",
    predictions: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|PATTERN",
            help="Saved maps instead of a model: the output folder of `datool predict`, a folder of npy, npz, exr, "
            "tiff, "
            "pfm or 16-bit png files named like the images, or a pattern such as 'maps/{id}_depth.npy' ({stem}: the "
            "last part of the id).",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Compare the predictors given as arguments with the first.", rich_help_panel=IN_OUT
        ),
    ] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Your own data instead of --bench: lines of {"image": ..., "depth": ...}.',
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="lsq-disparity, da-v2-reconstructed, midas, marigold, moge-disparity, moge-depth, moge-scale, "
            "zoe-metric or v2-metric. Default: the benchmark's own; lsq-disparity for --manifest. da2k (pairs of "
            "points) "
            "has only its own.",
            show_default=False,
            rich_help_panel=SCORING,
        ),
    ] = "",
    set_: Settings = None,
    quantity: MapQuantity = None,
    ambiguity: MapAmbiguity = None,
    divisor: Divisor = None,
    invalid: Invalid = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one row per image. A second run continues from it.",
            show_default=False,
            rich_help_panel=REPORTS,
        ),
    ] = None,
    rows: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Rows that other runs wrote with --csv; their images are not scored again. Repeatable.",
            show_default=False,
            rich_help_panel=WORKERS,
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Score only part I of N, counted from 0 (0/4 to 3/4). Join the parts with --rows.",
            rich_help_panel=WORKERS,
        ),
    ] = "0/1",
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a report: one HTML file that works offline.",
            show_default=False,
            rich_help_panel=REPORTS,
        ),
    ] = None,
    priors: Annotated[
        bool,
        typer.Option(
            "--priors",
            help="Beside each score, what a constant map and 'lower in the picture is nearer' get.",
            rich_help_panel=SCORING,
        ),
    ] = False,
    speed: Annotated[
        bool,
        typer.Option(
            "--speed",
            help="Also measure each model's images per second, latency and peak memory.",
            rich_help_panel=REPORTS,
        ),
    ] = False,
    resample: Annotated[
        str,
        typer.Option(
            metavar="UNIT",
            help="What --compare resamples for its confidence intervals: image, group or folder.",
            rich_help_panel=SCORING,
        ),
    ] = "image",
    size: Size = None,
    precision: Precision = "auto",
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score models or saved maps on benchmarks or on your own data.

    Every number is printed with its protocol. Images that cannot be scored are counted and named; the mean is over the
    others.
    """
    from datool.jobs.evaluate.evaluate import EvalOptions
    from datool.settings import split

    if priors:
        names, compare = [*(names if compare and names else [model or predictions or "auto"]), *PRIORS], True
        model, predictions = "", None
    if names and not compare:
        raise typer.BadParameter(f"got {' '.join(names)}; put --compare before several, --model before one.")
    options = EvalOptions(
        bench=listed(bench),
        manifest=manifest,
        model=model,
        predictions=predictions,
        compare=names or (),
        meaning=meaning(quantity, ambiguity, divisor, invalid),
        roots=folders(root),
        protocol=protocol,
        overrides=dict(map(split, settings(set_))),
        csv=csv,
        rows=rows or (),
        shard=part(shard, "--shard"),
        html=html,
        speed=speed,
        resample=resample,
        size_px=size,
        precision=precision,
        device=device,
        batch_size=number_or_text(batch_size),
        workers=workers,
    )
    summaries = _compare(options, as_json, quiet) if compare else _evaluate(options, as_json, quiet)
    if html is not None and not quiet:
        say("written", str(html), "green")
    failed = [(result.bench, *row) for summary in summaries for result in summary.results for row in result.failed]
    for name, id, reason in failed[:LISTED]:
        say("failed", f"{name} {id}: {reason}", "red")
    if len(failed) > LISTED:
        say("failed", f"{len(failed) - LISTED} more; --csv FILE and --json list them all", "red")
    if failed:
        raise typer.Exit(1)


def _fetch(name: str, progress: Callable[[str], None]) -> Path:
    from datool.jobs.data.get import get_data

    return get_data(name, progress=progress).root


def _evaluate(options: EvalOptions, as_json: bool, quiet: bool) -> Sequence[EvalSummary]:
    from datool.jobs.evaluate.evaluate import evaluate as job

    with Bar(quiet) as bar:
        summary = job(options, bar.update, _fetch)
    if as_json:
        typer.echo(summary.to_json())
    elif not quiet:
        _draw_eval(summary)
    return [summary]


def _compare(options: EvalOptions, as_json: bool, quiet: bool) -> Sequence[EvalSummary]:
    from datool.jobs.evaluate.evaluate import compare as job

    with Bar(quiet) as bar:
        found = job(options, bar.update, _fetch)
    if as_json:
        typer.echo(found.to_json())
    elif not quiet:
        for number, comparison in enumerate(found.comparisons):
            _draw_comparison(comparison, found.summaries, number)
        _draw_speeds(found.summaries)
    return found.summaries


def _draw_eval(summary: EvalSummary) -> None:
    """Print a table a benchmark: ours, groups, and what was published; under it, how it was measured."""
    for name, reason in summary.missing.items():
        say("note", f"{name} passed over: {reason}", "yellow")
    for result in summary.results:
        _draw_result(result, summary)
    _draw_speeds([summary])


def _draw_speeds(summaries: Sequence[EvalSummary]) -> None:
    """Print how fast the models are; nothing where it was not measured."""
    found: list[tuple[str, Speed]] = [(summary.name, summary.speed) for summary in summaries if summary.speed]
    rows = [
        [
            name,
            f"{speed.images_per_s:.2f}",
            f"{1000 * speed.latency_median_s:.0f}",
            f"{1000 * speed.latency_p90_s:.0f}",
            f"{speed.peak_bytes / 2**20:.0f}",
            f"{speed.num_images} images, {speed.on}",
        ]
        for name, speed in found
    ]
    draw_table(["speed", "images/s", "median ms", "90 % ms", "peak MiB", "measured on"], rows)


def _draw_comparison(comparison: Comparison, summaries: Sequence[EvalSummary], number: int) -> None:
    """Print a table of one benchmark: a line a predictor, in each metric its value and how it differs."""
    from datool.evaluation.compare import LEVEL, NUM_DRAWS
    from datool.evaluation.metrics import METRICS

    result = summaries[0].results[number]
    rows = []
    for metric in result.fields["metrics"]:
        for name, values in comparison.table.items():
            found = values[metric]
            first = found.better == "-"
            gaps = ["" if first else f"{value:+.4f}" for value in (found.difference, found.low, found.high)]
            rows.append([METRICS[metric].title if first else "", name, f"{found.value:.4f}", *gaps, found.better])
    draw_table([comparison.bench, "predictor", "here", "difference", "low", "high", "better"], rows)
    fields = ", ".join(f"{name} {_field(value)}" for name, value in result.fields.items() if name != "metrics")
    left = f", {comparison.num_left_out} left out" if comparison.num_left_out else ""
    draw_rows(
        {
            "of": "; ".join(summary.predictor for summary in summaries),
            "on": f"{result.title}, {result.root}",
            "images": f"{comparison.num_images} that all scored{left}",
            "low, high": f"interval of {LEVEL:.0%}, {NUM_DRAWS} paired draws of {comparison.num_units} "
            f"{comparison.resampled}, differences from {next(iter(comparison.table))}",
            "protocol": f"{result.protocol} {result.protocol_sha256} (datool {summaries[0].version}): {fields}",
        }
    )


def _draw_result(result: BenchResult, summary: EvalSummary) -> None:
    from datool.evaluation.metrics import METRICS

    titles = {name: METRICS[name].title for name in result.fields["metrics"]}
    ours = [[title, _number(result.values.get(name))] for name, title in titles.items()]
    draw_table([result.bench, "scored here"], ours)
    # Ten metrics a group do not fit on a terminal: an error and a share.
    short = [*list(titles)[:1], *[name for name in titles if METRICS[name].higher_is_better][:1]]
    short = list(dict.fromkeys(short))
    groups = [
        [name, f"{values['weight']:.0f}", *(_number(values[metric]) for metric in short)]
        for name, values in list(result.groups.items())[:LISTED_GROUPS]
    ]
    draw_table(["group", "weight", *(titles[name] for name in short)], groups)
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
    if len(result.groups) > LISTED_GROUPS:
        say("note", f"{len(result.groups) - LISTED_GROUPS} more groups; --json and --html have them", "yellow")
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
