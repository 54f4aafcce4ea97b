"""``datool pseudo-label``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import LINE_EVERY_S, LISTED, draw_rows, say
from datool.cli.help import ADVANCED, FORMATS, IN_OUT, LABELS, MODEL, WORKERS
from datool.cli.options import (
    BatchSize,
    Compile,
    Device,
    Json,
    MaxAspect,
    Precision,
    Quiet,
    Roots,
    RowsPerShard,
    Size,
    folders,
    number_or_text,
    part,
)

if TYPE_CHECKING:
    from datool.jobs.pseudo_label import LabelSummary
    from datool.labelling.label_set import LabelStatus


def pseudo_label(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUTS",
            help="Folders, manifests (.jsonl), tars, quoted patterns of shards ('{00000..00041}.tar'), https:// or "
            "pipe: addresses of shards, or names of unlabelled data sets.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the labels, shared by all workers.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE|DIR",
            help="The teacher: as for `datool predict`, but never auto.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="shards (tars, as training reads them) or files (with a manifest).",
            rich_help_panel=FORMATS,
        ),
    ] = "shards",
    depth: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Format of the labels: exr-half (smallest), png16, exr, npz, tiff or pfm.",
            rich_help_panel=FORMATS,
        ),
    ] = "exr-half",
    keep_images: Annotated[
        bool,
        typer.Option(
            "--keep-images",
            help="Store the photos with the labels. Otherwise the labels refer to them.",
            rich_help_panel=FORMATS,
        ),
    ] = False,
    label_size: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="network (short side --size) or native (the size of the photo).",
            rich_help_panel=LABELS,
        ),
    ] = "network",
    size: Size = None,
    flip: Annotated[
        bool,
        typer.Option("--flip", help="Average the labels of each photo and its mirror image.", rich_help_panel=LABELS),
    ] = False,
    confidence: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Store how much the label of the mirror image differs: none, image (one number per photo) or map "
            "(also "
            "per pixel).",
            rich_help_panel=LABELS,
        ),
    ] = "none",
    rows_per_shard: RowsPerShard = 1000,
    roots: Roots = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="local, or ray: the running cluster, else this machine.", rich_help_panel=WORKERS
        ),
    ] = "local",
    worker: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Which task of a job array this is, counted from 0 (0/8 to 7/8).",
            show_default=False,
            rich_help_panel=WORKERS,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Processes on this machine, or Ray tasks. 0: one per GPU, or one on a CPU.",
            min=0,
            rich_help_panel=WORKERS,
        ),
    ] = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    compile: Compile = False,
    max_aspect: MaxAspect = 8.0,
    decoder: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="JPEG decoder: opencv (on the CPU), torchvision (on the device; nvJPEG), or auto: torchvision on "
            "CUDA.",
            rich_help_panel=ADVANCED,
        ),
    ] = "auto",
    max_failures: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Stop when more photos than this have failed, over all workers. Default: never; failed photos are "
            "recorded with the reason.",
            min=0,
            show_default=False,
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    status: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Only show the progress of the labels in DIR.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label any number of photos with a teacher, as shards that `datool train-student` reads.

    Any number of workers can share OUT. If one is killed, run the same command again: it continues, and the result is
    the same to the byte.
    """
    if status is not None:
        from datool.jobs.pseudo_label import read_status

        found = read_status(status)
        if as_json:
            typer.echo(json.dumps(asdict(found), default=str))
        else:
            draw_rows(_rows(found))
        return
    if not inputs or out is None or model is None:
        missing = "INPUTS" if not inputs else "--out" if out is None else "--model"
        raise typer.BadParameter("labels need inputs, a teacher and a folder; or --status DIR.", param_hint=missing)
    from datool.jobs.pseudo_label import PseudoLabelOptions
    from datool.jobs.pseudo_label import pseudo_label as job
    from datool.labelling.labeller import LabelOptions

    labels = LabelOptions(
        size_px=size,
        precision=precision,
        batch_size=number_or_text(batch_size),
        compile=compile,
        flip=flip,
        confidence=confidence,
        label_size=label_size,
        depth=depth,
        keep_images=keep_images,
        max_aspect=max_aspect,
        decoder=decoder,
    )
    options = PseudoLabelOptions(
        inputs=tuple(inputs),
        out=out,
        model=model,
        labels=labels,
        format=format,
        rows_per_shard=rows_per_shard,
        roots=folders(roots),
        engine=engine,
        worker=None if worker is None else part(worker, "--worker"),
        workers=workers,
        device=device,
        max_failures=max_failures,
    )
    lines = _Lines(quiet)
    summary = job(options, lines.update)
    _end(summary, as_json, quiet)


class _Lines:
    """Progress on stderr: a line now and then."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.said = quiet, time.monotonic()

    def update(self, status: LabelStatus) -> None:
        """Say how far it is, if it was not just said."""
        if status.message:
            say("note", status.message, "yellow")
        elif not self.quiet and time.monotonic() - self.said >= LINE_EVERY_S:
            self.said = time.monotonic()
            say("progress", ", ".join(f"{value} {name}" for name, value in _rows(status).items()), "dim")


def _end(summary: LabelSummary, as_json: bool, quiet: bool) -> None:
    """Say what there is; photos without a label are no failure of the command, since among millions there are some."""
    status = summary.status
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        draw_rows(_rows(status) | {"took": f"{summary.seconds:.0f} s", "train on": f"--data {summary.data}"})
    if not status.finished:
        say("note", "other workers are on the rest; the last one finishes the set.", "yellow")
    for failed in summary.failed[:LISTED]:
        say("failed", f"{failed.id}: {failed.reason}", "red")


def _rows(status: LabelStatus) -> dict[str, str]:
    """Return what is worth saying of a set, by name."""
    left = "" if status.left_s is None or not status.left_s else f"{_span(status.left_s)}"
    claimed = f", {status.units_claimed} in work" if status.units_claimed else ""
    reasons = "; ".join(f"{count} {reason}" for reason, count in status.reasons.items())
    rows = {
        "images": f"{status.done}",
        "shards": f"{status.units_done} of {status.num_units}{claimed}",
        "failed": f"{status.failed} ({reasons})" if status.failed else "",
        "images/s": f"{status.images_per_s:.1f}" if status.images_per_s else "",
        "left": left,
        "finished": "yes" if status.finished else "",
    }
    return {name: value for name, value in rows.items() if value}


def _span(seconds: float) -> str:
    """Return a time in words: 3 d 4 h, 2 h 10 min, 40 s."""
    for unit, length, smaller, inner in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} {int(seconds % length // inner)} {smaller}"
    return f"{seconds:.0f} s"
