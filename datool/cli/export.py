"""``datool export``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import draw_rows, say
from datool.cli.options import Json, Quiet, Size

if TYPE_CHECKING:
    from datool.jobs.export import ExportSummary


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name (v2-small, tiny, ...), weight file or folder.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE|DIR", help="The file to write, or its folder.", show_default=False),
    ],
    format: Annotated[str, typer.Option(metavar="NAME", help="onnx, torch-export (.pt2) or openvino.")] = "onnx",
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="fp32; of openvino also bf16, or int8 (needs --calibrate).")
    ] = "fp32",
    opset: Annotated[int, typer.Option(metavar="N", help="Of ONNX.", min=18)] = 20,
    size: Size = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE", help="Picture to compare with PyTorch on; default: a rendered one.", show_default=False
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Photos that int8 takes its ranges from, up to 48.", show_default=False),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="ERROR",
            help="Largest error against PyTorch in fp32, relative to the map's spread; default: 1e-4 for fp32, 1e-2 "
            "for bf16, 3e-2 for int8.",
            min=0.0,
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        bool,
        typer.Option(
            "--encoder",
            help="Write the encoder alone: a DINOv2 backbone for timm and transformers, a convolutional one for timm.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in the way.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for ONNX Runtime, OpenVINO or torch.export, for photos of any size, checked against PyTorch.

    The file holds all that `datool predict --model FILE` needs.
    """
    from datool.jobs.export import ExportOptions
    from datool.jobs.export import export as job

    options = ExportOptions(
        model, out, format, precision, opset, size, check, calibrate, tolerance, encoder=encoder, overwrite=overwrite
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
