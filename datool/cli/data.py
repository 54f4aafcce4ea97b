"""``datool data``: check, pack, synth, filter, sky, get."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import LISTED, Bar, draw_rows, draw_table, say
from datool.cli.help import ADVANCED, DATA, FORMATS, IN_OUT, LIMITS, MODEL, Typer
from datool.cli.options import Device, Json, Out, Quiet, Roots, RowsPerShard, Split, Workers, folders

if TYPE_CHECKING:
    from datool.jobs.data.check import SetReport

data = Typer(help="Check, pack, render, filter and download data sets.", epilog="Example: datool data check my-set/")

BAR_WIDTH = 40

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Data sets by name (nyu, hypersim, images, ...), manifests (.jsonl), or folders that hold a manifest, "
        "shards, "
        "tars or images.",
        show_default=False,
        rich_help_panel=IN_OUT,
    ),
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A data set by name, a manifest, or a folder of data, as for `datool data check`.",
        show_default=False,
        rich_help_panel=IN_OUT,
    ),
]


@data.command(epilog="Example: datool data check my-set/manifest.jsonl --sheet check.png")
def check(
    sources: Sources,
    root: Roots = None,
    split: Split = None,
    num: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Check only this many pairs of each set, evenly spaced.",
            min=1,
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a PNG with images, maps and findings.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find faulty pairs in a data set, and the unit of its depth.

    Finds pairs that are broken, misaligned, inverted, in another unit, or duplicated. Exits with 1 if something is
    broken. Lists the first findings; --json lists all.
    """
    from datool.jobs.data.check import CheckOptions
    from datool.jobs.data.check import check as job

    options = CheckOptions(sources=sources, roots=folders(root), split=split, num=num, sheet=sheet, num_workers=workers)
    with Bar(quiet) as bar:
        reports = job(options, bar.update)
    if as_json:
        typer.echo(json.dumps([asdict(report) | {"kinds": report.kinds} for report in reports], default=str))
    elif not quiet:
        for report in reports:
            _draw_report(report)
    if any(report.is_broken for report in reports):
        raise typer.Exit(1)


@data.command(epilog="Example: datool data pack hypersim --root hypersim=/data/hypersim --out shards")
def pack(
    source: Source,
    out: Out,
    root: Roots = None,
    split: Split = None,
    only: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Pack only these samples: the list that `datool data filter` made of tars or databases.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    rows_per_shard: RowsPerShard = 1000,
    image: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Image format: original (the file's own bytes where possible), png or jpeg.",
            rich_help_panel=FORMATS,
        ),
    ] = "original",
    depth: Annotated[
        str,
        typer.Option(metavar="NAME", help="Depth format: exr, exr-half, npz, tiff or png16.", rich_help_panel=FORMATS),
    ] = "exr",
    workers: Workers = 0,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Rewrite finished shards that had failures.", rich_help_panel=ADVANCED),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pack a data set into WebDataset tars, which training reads in any order.

    If it is killed, run the same command again: it continues.
    """
    from datool.data.sources.table import find_source
    from datool.jobs.data.pack import PackOptions
    from datool.jobs.data.pack import pack as job
    from datool.parallel import num_cores

    name, place = find_source(source, folders(root))
    options = PackOptions(
        source=name,
        out=out,
        root=place,
        split=split,
        rows_per_shard=rows_per_shard,
        image=image,
        depth=depth,
        threads=workers or num_cores(),
        retry_failed=retry_failed,
        only=only,
    )
    with Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        skipped = f", {summary.num_skipped} rows of earlier runs" if summary.num_skipped else ""
        draw_rows(
            {
                "packed": f"{summary.num_samples} samples, {summary.num_bytes / 1e6:.1f} MB in {summary.num_shards} "
                f"shards{skipped}",
                "rate": f"{summary.images_per_s:.1f} images/s, {summary.seconds:.1f} s",
                "in": str(summary.out),
            }
        )
    _list([(failed.id, failed.reason) for failed in summary.failed], summary.num_failed, "the shards' .json")
    if summary.num_failed:
        raise typer.Exit(1)


@data.command(epilog="Example: datool data synth --out scenes --num 10000 --size 480x640 --seed 1")
def synth(
    out: Out,
    num: Annotated[
        int, typer.Option(metavar="N", help="Number of images.", min=1, show_default=False, rich_help_panel=IN_OUT)
    ],
    size: Annotated[
        str, typer.Option(metavar="HxW", help="Height and width in pixels.", rich_help_panel=IN_OUT)
    ] = "480x640",
    seed: Annotated[
        int, typer.Option(metavar="N", help="Each seed gives another endless set.", rich_help_panel=IN_OUT)
    ] = 0,
    format: Annotated[
        str, typer.Option(metavar="NAME", help="manifest (files) or shards (tars).", rich_help_panel=FORMATS)
    ] = "manifest",
    image: Annotated[
        str, typer.Option(metavar="NAME", help="Image format: jpeg or png.", rich_help_panel=FORMATS)
    ] = "jpeg",
    depth: Annotated[
        str, typer.Option(metavar="NAME", help="Depth format: png16, exr, npz or tiff.", rich_help_panel=FORMATS)
    ] = "png16",
    family: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="indoor, outdoor, table-top, close-up, sky or aerial. Default: a mixture.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    textures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Photos to lay on surfaces, 256 of them drawn by the seed. They show in the pictures.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    rows_per_shard: RowsPerShard = 1000,
    device: Device = "cpu",
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render scenes with exact depth and camera.

    Image N depends only on the seed, N and the size. A second run continues where the first one stopped.
    """
    from datool.jobs.data.synth import SynthOptions
    from datool.jobs.data.synth import synth as job

    height, cross, width = size.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(f"got '{size}', expected HxW, as 480x640.", param_hint="--size")
    options = SynthOptions(
        out=out,
        num=num,
        height_px=int(height),
        width_px=int(width),
        seed=seed,
        format=format,
        image=image,
        depth=depth,
        family=family,
        textures=textures,
        rows_per_shard=rows_per_shard,
        device=device,
        num_workers=workers,
    )
    with Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        skipped = f", {summary.num_skipped} of earlier runs" if summary.num_skipped else ""
        rate = f"{summary.images_per_s:.1f} images/s, {summary.seconds:.1f} s"
        draw_rows({"rendered": f"{summary.num}{skipped}", "rate": rate, "in": str(summary.out)})


@data.command("filter", epilog="Example: datool data filter photos/ more.jsonl --out kept.jsonl --min-side 384")
def filter_images(
    sources: Sources,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="List of the images to keep.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ],
    rejected: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="List of the dropped images, with the reasons. Default: the name of OUT with .rejected.jsonl.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    root: Roots = None,
    min_side: Annotated[
        int,
        typer.Option(metavar="PX", help="Drop images with a shorter side than this.", min=1, rich_help_panel=LIMITS),
    ] = 256,
    max_aspect: Annotated[
        float,
        typer.Option(
            metavar="RATIO",
            help="Drop images whose long side is more than this many times the short side.",
            min=1.0,
            rich_help_panel=LIMITS,
        ),
    ] = 3.0,
    max_blur: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Drop images that are more blurred everywhere, 0 to 1 (2 of 4,270 sharp photos are above 0.5).",
            rich_help_panel=LIMITS,
        ),
    ] = 0.5,
    max_border: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Drop images with wider plain borders on opposite sides.",
            rich_help_panel=LIMITS,
        ),
    ] = 0.04,
    max_text: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Drop documents and screenshots, 0 to 1 (1 of 4,270 photos is above 0.3).",
            rich_help_panel=LIMITS,
        ),
    ] = 0.3,
    min_contrast: Annotated[
        float,
        typer.Option(
            metavar="STD",
            help="Drop flat images: standard deviation of grey (no photo of 4,270 is below 10).",
            rich_help_panel=LIMITS,
        ),
    ] = 10.0,
    alike_bits: Annotated[
        int,
        typer.Option(
            metavar="BITS",
            help="Drop copies: images whose 64-bit perceptual hashes differ in at most this many bits. -1 keeps them.",
            max=15,
            rich_help_panel=LIMITS,
        ),
    ] = 4,
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the images that are worth labelling.

    Drops broken, small, elongated, flat, bordered, text-like and blurred images, and copies. Measurements are kept next
    to OUT: a killed run continues, and trying other limits takes seconds.
    """
    from datool.jobs.data.filter import FilterOptions, Limits
    from datool.jobs.data.filter import filter_images as job

    limits = Limits(
        min_side_px=min_side,
        max_aspect=max_aspect,
        max_blur=max_blur,
        max_border=max_border,
        max_text=max_text,
        min_contrast=min_contrast,
        alike_bits=alike_bits,
    )
    options = FilterOptions(
        inputs=sources, out=out, rejected=rejected, roots=folders(root), limits=limits, num_workers=workers
    )
    with Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        share = 100 / summary.num_images
        draw_table(
            ["", "images", "%"],
            [
                ["kept", str(summary.num_kept), f"{summary.num_kept * share:.1f}"],
                *([name, str(count), f"{count * share:.1f}"] for name, count in summary.reasons.items() if count),
            ],
        )
        rate = f"{summary.num_measured} at {summary.images_per_s:.1f} images/s"
        draw_rows({"measured": rate, "kept": str(summary.out), "dropped": str(summary.rejected)})


@data.command(
    epilog="Example: datool data sky hrwsi --out sky/hrwsi \\\n"
    "             --model nvidia/segformer-b0-finetuned-ade-512-512"
)
def sky(
    source: Source,
    out: Out,
    model: Annotated[
        str,
        typer.Option(
            metavar="ID|DIR",
            help="Segmentation model from transformers.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ],
    root: Roots = None,
    split: Split = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a sky mask for each image.

    Depth Anything V1 needs them for labels without sky.
    """
    from datool.data.sources.table import find_source
    from datool.jobs.data.sky import SkyOptions, sky_masks

    name, place = find_source(source, folders(root))
    with Bar(quiet) as bar:
        options = SkyOptions(source=name, out=out, model=model, roots={name: place}, split=split or "", device=device)
        summary = sky_masks(options, bar.update)
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        draw_rows({"masks": f"{summary.done}, {summary.share:.0%} sky", "in": str(summary.out)})
    _list(list(summary.failed), len(summary.failed), "--json")
    if summary.failed:
        raise typer.Exit(1)


@data.command(epilog="Example: datool data get da2k")
def get(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Benchmark: da2k.", show_default=False, rich_help_panel=IN_OUT),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Default: $DATOOL_DATA/NAME, else data/NAME.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download a benchmark from the hub, and print its folder.

    Shows size and licence first, then downloads, unpacks and checks it.
    """
    from datool.jobs.data.get import get_data

    summary = get_data(name, out, lambda line: None if quiet else say("note", line, "yellow"))
    if summary.missing and not quiet:
        say("note", f"{len(summary.missing)} images are not in the archive: {', '.join(summary.missing[:3])}", "yellow")
    typer.echo(summary.root)


def _list(failed: list[tuple[str, str]], num: int, where: str) -> None:
    for id, reason in failed[:LISTED]:
        say("failed", reason if id in reason else f"{id}: {reason}", "red")
    if num > LISTED:
        say("failed", f"{num - LISTED} more, listed in {where}", "red")


def _draw_report(report: SetReport) -> None:
    from datool.jobs.data.checkup import FAULTS

    sizes = ", ".join(f"{size} ({count})" for size, count in report.sizes.items())
    rows = {"set": f"{report.name} ({report.root})", "looked at": f"{report.num_seen} of {report.num_rows}: {sizes}"}
    if report.num_labelled:
        rows |= {
            "values": f"{report.unit} ({report.evidence})",
            "known": f"{report.valid:.1%} of the pixels, sky {report.sky:.1%}",
            "depth": f"{report.low:.3g} to {report.high:.3g}, median {report.middle:.3g}   (of the median map)",
        }
    draw_rows(rows)
    draw_table(["depth", "pixels %"], _bars(report.bins, report.depth_counts))
    draw_table(["disparity", "pixels %"], _bars(report.bins, report.disparity_counts))
    found = [[f"{kind:<15} {FAULTS[kind].title}", str(count)] for kind, count in report.kinds.items()]
    draw_table(["found", "pairs"], found)
    if not found:
        draw_rows({"found": "nothing"})
    for finding in report.findings[:LISTED]:
        say(finding.kind, f"{finding.id}: {finding.detail}", "red" if FAULTS[finding.kind].broken else "yellow")
    if len(report.findings) > LISTED:
        say("found", f"{len(report.findings) - LISTED} more; --json lists them all", "yellow")


def _bars(edges: tuple[float, ...], counts: tuple[int, ...]) -> list[list[str]]:
    """Return a histogram as rows of a table, from its first bin with pixels to its last."""
    filled = [number for number, count in enumerate(counts) if count]
    if not filled:
        return []
    total, most = sum(counts), max(counts)
    return [
        [
            f"{f'{edges[number]:.3g} to {edges[number + 1]:.3g}':<20}{'█' * round(BAR_WIDTH * counts[number] / most)}",
            f"{100 * counts[number] / total:.1f}",
        ]
        for number in range(filled[0], filled[-1] + 1)
    ]
