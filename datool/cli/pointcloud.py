"""``datool pointcloud``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.draw import Bar, draw_rows, list_failed
from datool.cli.options import Device, Json, Model, Out, Overwrite, Quiet, Size
from datool.errors import lookup

if TYPE_CHECKING:
    from datool.jobs.pointcloud.pointcloud import CloudSummary


def pointcloud(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS...",
            help="Photos (depth is predicted), depth maps, manifests (.jsonl, or datool predict's OUT), and folders of "
            "them.",
            show_default=False,
        ),
    ],
    out: Out,
    format: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Comma-separated: ply, pcd, xyz, las (points), glb (a mesh with the photo on it), html, png.",
        ),
    ] = "ply",
    model: Model = "auto",
    size: Size = None,
    device: Device = "auto",
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Photos of the maps, of the same names; else beside them.", show_default=False
        ),
    ] = None,
    quantity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What maps hold that do not say: depth (metres) or disparity.", show_default=False
        ),
    ] = None,
    ambiguity: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="And what they lack: none, scale, scale-and-shift.", show_default=False),
    ] = None,
    divisor: Annotated[
        float | None,
        typer.Option(metavar="N", help="Maps of other programs: value = stored / N, 0 unknown.", show_default=False),
    ] = None,
    focal_px: Annotated[
        float | None,
        typer.Option(metavar="PX", help="Focal length in pixels of the photos as they are.", show_default=False),
    ] = None,
    fov_deg: Annotated[
        float | None,
        typer.Option(metavar="DEG", help="Field of view in degrees, horizontal: left to right.", show_default=False),
    ] = None,
    intrinsics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="fx fy cx cy or a 3x3 matrix, as text or JSON, with the width and height it is of; or JSON lines with "
            "an image each. Without any, the manifest's row or the photo's EXIF tells.",
            show_default=False,
        ),
    ] = None,
    assume_fov: Annotated[
        float | None,
        typer.Option(
            metavar="DEG", help="Horizontal field of view where nothing tells the camera.", show_default=False
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of datool calibrate: makes relative disparity metric.", show_default=False),
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="Make a cloud without a unit where depth has no scale.")
    ] = False,
    edge: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Pixels whose depth steps by more than this on both sides fly: left out."),
    ] = 0.04,
    grazing_deg: Annotated[
        float, typer.Option(metavar="DEG", help="Surfaces seen under a smaller angle are smeared edges: left out.")
    ] = 3.0,
    max_depth_m: Annotated[
        float | None, typer.Option(metavar="M", help="Farther points are left out; sky always is.", show_default=False)
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Leave out pixels below it where a row has a confidence map.", show_default=False
        ),
    ] = None,
    voxel_m: Annotated[
        float | None,
        typer.Option(metavar="M", help="One point a cube of this side; of --fuse the resolution.", show_default=False),
    ] = None,
    max_points: Annotated[
        int | None, typer.Option(metavar="N", help="Keep at most N points, drawn at random.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of that draw.")] = 0,
    axes: Annotated[
        str, typer.Option(metavar="NAME", help="y-down (as the camera), y-up or z-up. A .glb is y-up always.")
    ] = "y-down",
    fuse: Annotated[bool, typer.Option("--fuse", help="One cloud, OUT/fused, of all frames with poses.")] = False,
    poses: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Camera-to-world matrices: JSON lines with an image each, or KITTI's or TUM's text in the order of "
            'the inputs; else "pose" in the manifest\'s rows.',
            show_default=False,
        ),
    ] = None,
    view: Annotated[
        bool, typer.Option("--view", help="Also html: a page that turns the cloud in a browser, offline.")
    ] = False,
    png: Annotated[bool, typer.Option("--png", help="Also png: a picture of the cloud from a little aside.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn photos, depth maps or manifests into point clouds and meshes, and write OUT/manifest.jsonl.

    Depth must be metric or calibrated, and the camera known: nothing is guessed unless asked. A rerun skips what is
    finished.
    """
    from datool.depth import Ambiguity, Quantity
    from datool.jobs.pointcloud.inputs import Meaning
    from datool.jobs.pointcloud.pointcloud import CloudOptions
    from datool.jobs.pointcloud.pointcloud import pointcloud as job

    names = list(dict.fromkeys(name.strip() for name in format.split(",") if name.strip()))
    options = CloudOptions(
        inputs=inputs,
        out=out,
        formats=[*names, *(name for name, wanted in (("html", view), ("png", png)) if wanted and name not in names)],
        model=model,
        size_px=size,
        device=device,
        meaning=Meaning(
            None if quantity is None else lookup({item.value: item for item in Quantity}, quantity, "quantity"),
            None if ambiguity is None else lookup({item.value: item for item in Ambiguity}, ambiguity, "ambiguity"),
            divisor,
            photos,
        ),
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
