"""``datool calibrate``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import LISTED, Bar, draw_rows, draw_table, list_failed, say
from datool.cli.help import IN_OUT, KNOWN, MODEL
from datool.cli.options import (
    AssumeFov,
    BatchSize,
    Device,
    Divisor,
    FocalPx,
    FovDeg,
    Intrinsics,
    Json,
    Model,
    Overwrite,
    Precision,
    Quiet,
    Size,
    number_or_text,
)

if TYPE_CHECKING:
    from datool.calibration import Calibration
    from datool.jobs.calibrate.calibrate import CalibrateSummary


def calibrate(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUTS",
            help="Photos, folders (searched recursively), quoted globs, or .txt lists. Omit with --labelled.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="JSON file for the calibration.", rich_help_panel=IN_OUT),
    ] = Path("calibration.json"),
    points: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measured points: lines of x,y,metres, or image,x,y,metres for several photos. x and y are pixels "
            "from "
            "the top left of the upright photo; metres are measured along the viewing direction.",
            show_default=False,
            rich_help_panel=KNOWN,
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,METRES",
            help="One measured point, as in --points. Repeatable.",
            show_default=False,
            rich_help_panel=KNOWN,
        ),
    ] = None,
    sparse: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR|PATTERN",
            help="Sparse depth in metres, 0 where unknown (LiDAR, structure from motion): 16-bit PNG with --divisor, "
            "npy, npz, EXR, TIFF or PFM. For several photos: a folder, or a pattern such as 'lidar/{stem}.png'.",
            show_default=False,
            rich_help_panel=KNOWN,
        ),
    ] = None,
    divisor: Divisor = None,
    camera_height_m: Annotated[
        float | None,
        typer.Option(
            metavar="METRES",
            help="Camera height above flat ground, which must be visible in the lower part of the photo.",
            show_default=False,
            rich_help_panel=KNOWN,
        ),
    ] = None,
    pitch_deg: Annotated[
        float | None,
        typer.Option(
            metavar="DEG",
            help="With --camera-height-m: how far the camera points down. 0 is level.",
            show_default=False,
            rich_help_panel=KNOWN,
        ),
    ] = None,
    horizon_row: Annotated[
        float | None,
        typer.Option(
            metavar="PX",
            help="Row of the horizon, from the top of the photo, instead of --pitch-deg.",
            show_default=False,
            rich_help_panel=KNOWN,
        ),
    ] = None,
    ground_mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Image that is above 0 where the ground may be.",
            show_default=False,
            rich_help_panel=KNOWN,
        ),
    ] = None,
    focal_px: FocalPx = None,
    fov_deg: FovDeg = None,
    intrinsics: Intrinsics = None,
    assume_fov: AssumeFov = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Manifest (.jsonl, or its folder) of photos with metric depth.",
            show_default=False,
            rich_help_panel=KNOWN,
        ),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Find one calibration for all photos, for a camera that does not move.",
            rich_help_panel=KNOWN,
        ),
    ] = False,
    model: Model = "auto",
    maps: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|PATTERN",
            help="Disparity that is already predicted: the output folder of `datool predict`, or maps named like the "
            "photos.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    size: Size = None,
    precision: Precision = "auto",
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the scale and shift that turn a relative model's disparity into metres.

    Give one of: measured points, sparse depth, the camera's height above flat ground, or labelled photos. A few of the
    measurements may be wrong.
    """
    from datool.jobs.calibrate.calibrate import CalibrateOptions, GroundOptions
    from datool.jobs.calibrate.calibrate import calibrate as job

    ground = GroundOptions(
        height_m=0.0 if camera_height_m is None else camera_height_m,
        pitch_deg=pitch_deg,
        horizon_row=horizon_row,
        mask=ground_mask,
        focal_px=focal_px,
        fov_deg=fov_deg,
        intrinsics=intrinsics,
        assume_fov=assume_fov,
    )
    if camera_height_m is None and ground != GroundOptions(height_m=0.0):
        raise typer.BadParameter(
            "a camera, its pitch, horizon and ground need its height.", param_hint="--camera-height-m"
        )
    options = CalibrateOptions(
        out=out,
        inputs=inputs or (),
        points=points,
        point=point or (),
        sparse=sparse,
        divisor=divisor,
        ground=None if camera_height_m is None else ground,
        labelled=labelled,
        shared=shared,
        model=model,
        maps=maps,
        size_px=size,
        precision=precision,
        device=device,
        batch_size=number_or_text(batch_size),
        overwrite=overwrite,
    )
    with Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        typer.echo(json.dumps(_to_json(summary), default=str))
    elif not quiet:
        _draw(summary)
    _warn(summary)
    if summary.failed:
        list_failed(dict(summary.failed), None)
        raise typer.Exit(1)


def _to_json(summary: CalibrateSummary) -> dict[str, object]:
    found = asdict(summary.calibrations)
    failed = [{"input": path, "reason": reason} for path, reason in summary.failed]
    return {"out": summary.out, **found, "photos": [asdict(fit) for fit in summary.photos], "failed": failed}


def _draw(summary: CalibrateSummary) -> None:
    """Print one calibration in full or several a line each; how a shared one compares; and where it was written."""
    found = summary.calibrations
    one = found.shared or (next(iter(found.images.values())) if len(found.images) == 1 else None)
    if one is None:
        rows = [
            [Path(path).name, f"{row.scale_per_m:.4g}", f"{row.shift_per_m:.4g}", *_counts(row), _ends(row)]
            for path, row in found.images.items()
        ]
        draw_table(["photo", "scale 1/m", "shift 1/m", "points", "set aside", "AbsRel", "map m"], rows[:LISTED])
    if found.shared:
        errors = [
            [Path(fit.image).name, _share(fit.shared_median_error), _share(fit.median_error)] for fit in summary.photos
        ]
        draw_table(["photo", "median error, shared", "its own"], errors[:LISTED])
    left = max(len(summary.photos) - LISTED, 0)
    whole = {} if one is None else _whole(one)
    use = "predict PHOTOS" if found.model else "pointcloud MAPS"
    draw_rows(
        {
            **whole,
            "of": f"{found.model or 'an unknown model'}, short side {found.size_px or 'unknown'}",
            "in": f"{summary.out}{f', with {left} more' if left else ''}",
            "use": f"datool {use} --out DIR --calibration {summary.out}",
        }
    )


def _whole(row: Calibration) -> dict[str, str]:
    num, aside, abs_rel = _counts(row)
    return {
        "scale": f"{_with_error(row.scale_per_m, row.scale_error_per_m)} 1/m",
        "shift": f"{_with_error(row.shift_per_m, row.shift_error_per_m)} 1/m",
        "found by": f"{row.found_by}: {num} from {row.near_m:.3g} to {row.far_m:.3g} m, {aside} set aside",
        "AbsRel": f"{abs_rel} at those that count",
        "map": f"{_ends(row, with_errors=True)} (2 to 98 % of its pixels, standard error)",
    }


def _counts(row: Calibration) -> list[str]:
    return [str(row.num_points), str(row.num_outliers), "" if row.abs_rel is None else f"{row.abs_rel:.4f}"]


def _ends(row: Calibration, with_errors: bool = False) -> str:
    errors = (row.map_near_error_m, row.map_far_error_m) if with_errors else (None, None)
    ends = zip((row.map_near_m, row.map_far_m), errors, strict=True)
    return " to ".join(_with_error(depth, error) for depth, error in ends if depth is not None) + " m" * with_errors


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {float(f'{error:.2g}'):g}"


def _share(error: float | None) -> str:
    return "" if error is None else f"{error:.1%}"


def _warn(summary: CalibrateSummary) -> None:
    found = summary.calibrations
    rows = [("all photos", found.shared)] if found.shared else list(found.images.items())
    doubts = [f"{name}: {doubt}" for name, row in rows if row for doubt in row.warnings]
    for doubt in doubts[:LISTED]:
        say("warning", doubt, "yellow")
    if len(doubts) > LISTED:
        say("warning", f"{len(doubts) - LISTED} more, in {summary.out}", "yellow")
