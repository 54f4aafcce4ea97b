"""``datool predict``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import Bar, draw_rows, list_failed
from datool.cli.help import ADVANCED, FORMATS, IN_OUT, VIDEOS
from datool.cli.options import (
    AsPhoto,
    BatchSize,
    Calibration,
    Compile,
    Device,
    Json,
    MaxAspect,
    MaxPixels,
    Model,
    Out,
    Overlap,
    Overwrite,
    Precision,
    Quiet,
    Runtime,
    Size,
    Tile,
    Tolerance,
    listed,
    number_or_text,
)

if TYPE_CHECKING:
    from datool.jobs.predict.predict import PredictSummary


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS",
            help="Photos, videos, folders (searched recursively), quoted globs, .txt lists (one path per line), or - "
            "to "
            "read paths from stdin.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ],
    out: Out,
    model: Model = "auto",
    format: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Comma-separated. Values: png16, npy, npz, exr, exr-half, tiff, pfm. Pictures: color, color-inferno, "
            "color-turbo, grey, side-by-side. Videos only: grey10 (10-bit). For a video, a picture format writes an "
            "MP4 with sound, a value format a folder with one file per frame.",
            rich_help_panel=FORMATS,
        ),
    ] = "png16,color",
    size: Size = None,
    precision: Precision = "auto",
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    compile: Compile = False,
    overwrite: Overwrite = False,
    max_pixels: MaxPixels = 200_000_000,
    max_aspect: MaxAspect = 8.0,
    as_photo: AsPhoto = False,
    no_fallback: Annotated[
        bool,
        typer.Option(
            "--no-fallback",
            help="With --model auto: fail rather than use the bundled tiny model.",
            rich_help_panel=ADVANCED,
        ),
    ] = False,
    tile: Tile = None,
    overlap: Overlap = None,
    range: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Colour range. clip: one for the whole video; ema: follows the video and restarts at cuts; frame: "
            "each frame on its own, which flickers.",
            rich_help_panel=VIDEOS,
        ),
    ] = "clip",
    flow: Annotated[
        bool, typer.Option("--flow", help="Also smooth along the optical flow.", rich_help_panel=VIDEOS)
    ] = False,
    sequence: Annotated[
        float | None,
        typer.Option(
            metavar="FPS",
            help="Treat each folder of images as a video with this many frames per second.",
            show_default=False,
            rich_help_panel=VIDEOS,
        ),
    ] = None,
    calibration: Calibration = None,
    runtime: Runtime = None,
    tolerance: Tolerance = 1e-2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict the depth of photos and videos.

    Sub-folders are mirrored in OUT. OUT/manifest.jsonl describes each photo, OUT/clips.jsonl each video. A second run
    skips what is finished. Failures are listed and do not stop the rest.
    """
    from datool.jobs.predict.predict import PredictOptions
    from datool.jobs.predict.predict import predict as job

    options = PredictOptions(
        inputs=inputs,
        out=out,
        model=model,
        formats=listed(format),
        size_px=size,
        precision=precision,
        device=device,
        batch_size=number_or_text(batch_size),
        compile=compile,
        overwrite=overwrite,
        max_pixels=max_pixels,
        max_aspect=max_aspect,
        as_photo=as_photo,
        fallback=not no_fallback,
        tile_px=tile,
        overlap_px=overlap,
        range=range,
        flow=flow,
        sequence_hz=sequence,
        calibration=calibration,
        runtime=runtime,
        tolerance=tolerance,
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
    rate = f" at {summary.images_per_s:.1f} images/s" if summary.images_per_s else ""
    photos = f"{summary.done}" if summary.done or not summary.films else ""
    films = f"{summary.films} film{'s' * (summary.films > 1)} of {summary.frames} frames" if summary.films else ""
    written = ", ".join(filter(None, (photos, films)))
    listed = ", ".join(name for name in ("manifest.jsonl", "clips.jsonl") if (summary.out / name).is_file())
    rows = {
        "written": f"{written}{rate}, {summary.seconds:.1f} s in all",
        "skipped": f"{summary.skipped}, finished earlier" if summary.skipped else "",
        "failed": str(len(summary.failed)) if summary.failed else "",
        "model": f"{summary.model} ({summary.licence})" if summary.licence else summary.model,
        "with": f"{summary.runtime} on {summary.device}, {summary.precision}, short side {summary.size_px}",
        "in": f"{summary.out} ({', '.join(summary.formats)}, {listed})",
    }
    draw_rows({name: value for name, value in rows.items() if value})
