"""``datool predict``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import Bar, draw_rows, list_failed
from datool.cli.options import (
    BatchSize,
    Calibration,
    Compile,
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
    from datool.jobs.predict.predict import PredictSummary


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS...",
            help="Photos and films, folders of them (recursive), globs in quotes, .txt lists (a path a line), or - for "
            "paths on stdin.",
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
            "color-inferno, color-turbo, grey, side-by-side; of films grey10 (10 bits) too. Of a film, pictures make "
            "an MP4 with its sound, values a folder with a file a frame.",
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
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail where --model auto would take the bundled tiny.")
    ] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Cut photos larger than this into tiles of so many pixels a side, which agree with a look at the "
            "whole: fine detail of photos up to 100 M pixels and more.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(metavar="PX", help="What neighbouring tiles share; default: a quarter.", show_default=False),
    ] = None,
    range: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of films: clip (one range of colours for all frames), ema (one that follows the film and begins anew "
            "at cuts), frame (each frame alone, as photos: flickers).",
        ),
    ] = "clip",
    flow: Annotated[bool, typer.Option("--flow", help="Of films: smooth along the optical flow too.")] = False,
    sequence: Annotated[
        float | None,
        typer.Option(
            metavar="FPS", help="Take each folder of images as a film of so many frames a second.", show_default=False
        ),
    ] = None,
    calibration: Calibration = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What computes: torch, onnx, openvino (converted once, kept in the cache), or auto: the fastest "
            "within --tolerance on the first photos; default: torch, or that of an exported file.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="ERROR",
            help="Of --runtime auto: largest error against fp32, relative to the map's spread.",
            min=0.0,
        ),
    ] = 1e-2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the depth of photos and films, sub-folders mirrored, and a row for each in OUT/manifest.jsonl, clips.jsonl.

    A rerun skips what is finished. What fails is listed, the others are written whole.
    """
    from datool.jobs.predict.predict import PredictOptions
    from datool.jobs.predict.predict import predict as job

    options = PredictOptions(
        inputs=inputs,
        out=out,
        model=model,
        formats=[name.strip() for name in format.split(",") if name.strip()],
        size_px=size,
        precision=precision,
        device=device,
        batch_size=number_or_text(batch_size),
        compile=compile,
        overwrite=overwrite,
        max_pixels=max_pixels,
        max_aspect=max_aspect,
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
