"""``datool pointcloud``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import Bar, draw_rows, list_failed
from datool.cli.help import ADVANCED, CAMERA, FORMATS, IN_OUT, MAPS, SURFACES
from datool.cli.options import (
    AsPhoto,
    AssumeFov,
    Calibration,
    Device,
    Divisor,
    FocalPx,
    FovDeg,
    Intrinsics,
    Invalid,
    Json,
    MapAmbiguity,
    MapQuantity,
    Model,
    Out,
    Overwrite,
    Quiet,
    Size,
    listed,
    meaning,
)

if TYPE_CHECKING:
    from datool.jobs.pointcloud.pointcloud import CloudSummary


def pointcloud(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS",
            help="Photos (their depth is predicted), depth maps, manifests (.jsonl, or the output folder of `datool "
            "predict`), or folders of these.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ],
    out: Out,
    format: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Comma-separated. Points: ply, pcd, xyz, las. Mesh with the photo as its texture: glb. To look at: "
            "html, png.",
            rich_help_panel=FORMATS,
        ),
    ] = "ply",
    model: Model = "auto",
    size: Size = None,
    device: Device = "auto",
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with the photos of the maps, under the same names. Default: next to the maps.",
            show_default=False,
            rich_help_panel=IN_OUT,
        ),
    ] = None,
    quantity: MapQuantity = None,
    ambiguity: MapAmbiguity = None,
    divisor: Divisor = None,
    invalid: Invalid = None,
    as_photo: AsPhoto = False,
    focal_px: FocalPx = None,
    fov_deg: FovDeg = None,
    intrinsics: Intrinsics = None,
    assume_fov: AssumeFov = None,
    calibration: Calibration = None,
    relative: Annotated[
        bool,
        typer.Option(
            "--relative", help="Accept depth without a scale: the cloud then has no unit.", rich_help_panel=MAPS
        ),
    ] = False,
    edge: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Drop flying pixels: those whose depth differs by more than this share on both sides.",
            rich_help_panel=SURFACES,
        ),
    ] = 0.04,
    grazing_deg: Annotated[
        float,
        typer.Option(
            metavar="DEG",
            help="Drop smeared edges: surfaces seen at a smaller angle than this.",
            rich_help_panel=SURFACES,
        ),
    ] = 3.0,
    max_depth_m: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="Drop points farther than this. Sky is always dropped.",
            show_default=False,
            rich_help_panel=SURFACES,
        ),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Drop pixels with a lower confidence, where there is a confidence map.",
            show_default=False,
            rich_help_panel=SURFACES,
        ),
    ] = None,
    voxel_m: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="Keep one point per cube of this side. With --fuse: the resolution.",
            show_default=False,
            rich_help_panel=SURFACES,
        ),
    ] = None,
    max_points: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Keep at most this many points, chosen at random.",
            show_default=False,
            rich_help_panel=SURFACES,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the random choice of --max-points.", rich_help_panel=ADVANCED)
    ] = 0,
    axes: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="y-down (the camera's), y-up or z-up. glb is always y-up.", rich_help_panel=FORMATS
        ),
    ] = "y-down",
    fuse: Annotated[
        bool,
        typer.Option(
            "--fuse", help="Fuse all frames that have a pose into one cloud, OUT/fused.", rich_help_panel=SURFACES
        ),
    ] = False,
    poses: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Camera-to-world matrices: JSON lines, one per image, or KITTI or TUM text in the order of the "
            "inputs. "
            'Default: "pose" in the manifest.',
            show_default=False,
            rich_help_panel=CAMERA,
        ),
    ] = None,
    view: Annotated[
        bool,
        typer.Option("--view", help="Also write html: an offline page to turn the cloud.", rich_help_panel=FORMATS),
    ] = False,
    png: Annotated[
        bool, typer.Option("--png", help="Also write png: a picture of the cloud.", rich_help_panel=FORMATS)
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn photos, depth maps or manifests into point clouds and meshes.

    Depth must be metric or calibrated, and the camera known; nothing is guessed unless you ask for it. A second run
    skips what is finished. OUT/manifest.jsonl describes each output.
    """
    from datool.jobs.pointcloud.pointcloud import CloudOptions
    from datool.jobs.pointcloud.pointcloud import pointcloud as job

    asked = {"html": view, "png": png}
    options = CloudOptions(
        inputs=inputs,
        out=out,
        formats=listed(",".join([format, *(name for name, wanted in asked.items() if wanted)])),
        model=model,
        size_px=size,
        device=device,
        meaning=meaning(quantity, ambiguity, divisor, invalid),
        photos=photos,
        as_photo=as_photo,
        focal_px=focal_px,
        fov_deg=fov_deg,
        intrinsics=intrinsics,
        assume_fov=assume_fov,
        calibration=calibration,
        relative=relative,
        edge=edge,
        grazing_deg=grazing_deg,
        max_depth_m=max_depth_m,
        min_confidence=min_confidence,
        voxel_m=voxel_m,
        max_points=max_points,
        seed=seed,
        axes=axes,
        fuse=fuse,
        poses=poses,
        overwrite=overwrite,
    )
    with Bar(quiet) as bar:
        summary = job(options, bar.update)
    if as_json:
        failed = [{"input": path, "reason": reason} for path, reason in summary.failed]
        typer.echo(json.dumps(asdict(summary) | {"failed": failed}, default=str))
    elif not quiet:
        _draw(summary)
    if summary.failed:
        list_failed(dict(summary.failed), out)
        raise typer.Exit(1)


def _draw(summary: CloudSummary) -> None:
    """Print the table of what was done."""
    rows = {
        "written": f"{summary.done}, {summary.points:,} points, {summary.seconds:.1f} s in all",
        "skipped": f"{summary.skipped}, finished earlier" if summary.skipped else "",
        "failed": str(len(summary.failed)) if summary.failed else "",
        "depth": _counted(summary.depths),
        "camera": _counted(summary.cameras),
        "in": f"{summary.out} ({', '.join(summary.formats)}, manifest.jsonl)",
    }
    draw_rows({name: value for name, value in rows.items() if value})


def _counted(told: Mapping[str, int], shown: int = 3) -> str:
    """Return the most frequent of what was told, with their numbers where there are several."""
    if len(told) == 1:
        return next(iter(told))
    most = sorted(told.items(), key=lambda item: -item[1])
    rest = len(most) - shown
    return ", ".join(f"{words} ({number})" for words, number in most[:shown]) + (f", {rest} more" if rest > 0 else "")
