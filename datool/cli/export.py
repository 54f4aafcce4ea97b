"""``datool export``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import draw_rows, say
from datool.cli.help import ADVANCED, FORMATS, IN_OUT
from datool.cli.options import Json, Overwrite, Quiet, Size

if TYPE_CHECKING:
    from datool.jobs.export import ExportSummary


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model name (v2-small, tiny, ...), weight file or folder.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE|DIR",
            help="File or folder to write.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ],
    format: Annotated[
        str, typer.Option(metavar="NAME", help="onnx, torch-export (.pt2) or openvino.", rich_help_panel=FORMATS)
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="fp32; for openvino also bf16, or int8 with --calibrate.", rich_help_panel=FORMATS
        ),
    ] = "fp32",
    opset: Annotated[int, typer.Option(metavar="N", help="ONNX opset.", min=18, rich_help_panel=FORMATS)] = 20,
    size: Size = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="Photo on which the file is compared with PyTorch. Default: a rendered one.",
            show_default=False,
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Photos to calibrate int8 on; up to 48 are used.",
            show_default=False,
            rich_help_panel=FORMATS,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="ERROR",
            help="Largest accepted error against PyTorch in fp32, relative to the spread of the map. Default: 1e-4 for "
            "fp32, 1e-2 for bf16, 3e-2 for int8.",
            min=0.0,
            show_default=False,
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    encoder: Annotated[
        bool,
        typer.Option(
            "--encoder",
            help="Write only the encoder: a DINOv2 backbone for timm and transformers, a convolutional one for timm.",
            rich_help_panel=FORMATS,
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a model for ONNX Runtime, OpenVINO or torch.export.

    The file takes photos of any size, is checked against PyTorch, and holds all that `datool predict --model FILE`
    needs.
    """
    from datool.jobs.export import ExportOptions
    from datool.jobs.export import export as job

    options = ExportOptions(
        model=model,
        out=out,
        format=format,
        precision=precision,
        opset=opset,
        size_px=size,
        check=check,
        calibrate=calibrate,
        tolerance=tolerance,
        encoder=encoder,
        overwrite=overwrite,
    )
    summary = job(options, lambda line: None if quiet else say("note", line, "yellow"))
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        _draw(summary)


def _draw(summary: ExportSummary) -> None:
    """Print what was written."""
    kind = f"{summary.format}, {summary.precision}" + (f", opset {summary.opset}" if summary.opset else "")
    rows = {
        "written": f"{', '.join(map(str, summary.files))} ({summary.size_mb:.0f} MB, {summary.seconds:.0f} s)",
        "model": f"{summary.model} ({summary.licence})" if summary.licence else summary.model,
        "as": kind,
    }
    if summary.checked_on:
        rows["error"] = f"{summary.error:.1e} of the map's spread, on {summary.checked_on} (limit {summary.limit:g})"
    draw_rows(rows)
