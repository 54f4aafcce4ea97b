"""``datool predict``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import Bar, draw_rows, list_failed
from datool.cli.options import (
    BatchSize,
    Device,
    Json,
    MaxAspect,
    MaxPixels,
    Model,
    Out,
    Overwrite,
    Precision,
    Quiet,
    Size,
    number_or_text,
)

if TYPE_CHECKING:
    from datool.jobs.predict import PredictSummary


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
        batch_size=number_or_text(batch_size),
        overwrite=overwrite,
        max_pixels=max_pixels,
        max_aspect=max_aspect,
        fallback=not no_fallback,
    )
    with Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        failed = [{"input": path, "reason": reason} for path, reason in summary.failed]
        typer.echo(json.dumps(asdict(summary) | {"failed": failed}, default=str))
    elif not quiet:
        _draw_predict(summary)
    if summary.failed:
        list_failed(dict(summary.failed), out)
        raise typer.Exit(1)


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
    draw_rows({name: value for name, value in rows.items() if value})
