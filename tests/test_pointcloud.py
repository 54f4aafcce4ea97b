from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dying import run_until
from room import HIGH, LOW, render, turned
from typer.testing import CliRunner

from datool.calibration import Calibration, Calibrations, write_calibration
from datool.cli import app
from datool.data.manifest import MANIFEST
from datool.depth import Quantity
from datool.errors import DatoolError
from datool.files import LOCK, write_map
from datool.files.stored_map import MapMeaning
from datool.geometry import fov_camera
from datool.jobs.pointcloud.cloud_manifest import read_clouds
from datool.jobs.pointcloud.inputs import list_views
from datool.jobs.pointcloud.pointcloud import CloudOptions, pointcloud
from datool.jobs.predict.predict import PredictOptions, predict
from datool.models.depth_anything import build_model
from datool.models.weights import save

CAMERA = fov_camera(70, 48, 64)
YAWS = {"a": -35, "sub/b": 0, "sub/c": 35}


@pytest.fixture
def rooms(tmp_path):
    """A manifest of three views of the room, with depth, cameras and poses."""
    rows = []
    for name, yaw in YAWS.items():
        pose = turned(yaw)
        depth, image, _ = render(CAMERA, pose)
        path = tmp_path / "rooms" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[:, :, ::-1])
        write_map(path.with_suffix(".npz"), depth, "npz")
        camera_px = [CAMERA.fx_px, CAMERA.fy_px, CAMERA.cx_px, CAMERA.cy_px]
        row = {"image": f"{name}.png", "depth": f"{name}.npz", "camera_px": camera_px, "pose": pose.tolist()}
        rows.append(json.dumps(row))
    (tmp_path / "rooms" / "rooms.jsonl").write_text("\n".join(rows))
    return tmp_path / "rooms" / "rooms.jsonl"


@pytest.fixture
def options(rooms, tmp_path):
    return CloudOptions(inputs=[str(rooms)], out=tmp_path / "out")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name in ("nano", "nano-metric"):
        torch.manual_seed(0)
        save(folder / f"{name}.safetensors", build_model(name), name)
    return folder


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


def points(path):
    o3d = pytest.importorskip("open3d")
    return np.asarray(o3d.io.read_point_cloud(str(path)).points)


def edit(manifest, **changes):
    rows = [json.loads(line) | changes for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(json.dumps(row) for row in rows))


def reasons(summary):
    return {Path(path).name: reason for path, reason in summary.failed}


# From manifests


def test_a_manifest_becomes_clouds_of_the_same_places_and_a_row_each(options, rooms):
    formats = ("ply", "pcd", "xyz", "glb", "html", "png")
    summary = pointcloud(replace(options, formats=formats))
    assert (summary.done, summary.skipped, summary.failed) == (3, 0, ())
    ends = (".ply", ".pcd", ".xyz", ".glb", ".html", ".cloud.png")
    assert sorted(tree(options.out)) == sorted([*(name + end for name in YAWS for end in ends), MANIFEST])
    for row in read_clouds(options.out).values():
        name = Path(row.input).relative_to(rooms.parent).with_suffix("").as_posix()
        cloud = points(options.out / row.outputs["ply"]) @ turned(YAWS[name])[:3, :3].T
        off = np.minimum(np.abs(cloud - LOW), np.abs(cloud - HIGH)).min(axis=1)
        assert off.max() < 1e-3 and len(cloud) == row.points
        assert row.points + sum(row.dropped.values()) == 48 * 64
        assert (row.status, row.unit, row.camera_from, row.depth_from) == ("done", "m", "the data set", "the data set")
        assert row.camera["fx_px"] == pytest.approx(CAMERA.fx_px)
        assert b"unit: metres" in (options.out / row.outputs["ply"]).read_bytes()[:300]
        assert cv2.imread(str(options.out / row.outputs["png"])).shape == (720, 960, 3)


def test_a_rerun_does_nothing_and_goes_on_where_something_is_missing(options):
    pointcloud(options)
    whole = tree(options.out)
    stamps = {name: (options.out / name).stat().st_mtime_ns for name in whole}
    assert pointcloud(options).skipped == 3
    assert stamps == {name: (options.out / name).stat().st_mtime_ns for name in whole}
    (options.out / "sub/b.ply").unlink()
    summary = pointcloud(options)
    assert (summary.done, summary.skipped) == (1, 2) and tree(options.out) == whole


def test_stopped_anywhere_then_rerun_is_never_stopped(options):
    never = replace(options, out=options.out.parent / "never")
    pointcloud(never)

    def stop(progress):
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pointcloud(options, stop)
    states = [row.status for row in read_clouds(options.out).values()]
    assert states == ["done", "pending", "pending"]
    manifest = options.out / MANIFEST
    manifest.write_bytes(manifest.read_bytes() + b'{"input": "cut o')  # as a killed run leaves it
    assert pointcloud(options).skipped == 1
    assert tree(options.out) == tree(never.out)


def test_killed_at_any_moment_then_rerun_is_never_killed(options, rooms):
    row = json.loads(rooms.read_text().splitlines()[0])
    rows = [row | {"id": f"many/{number:02}", "image": f"{number:02}.png"} for number in range(12)]
    for row in rows:
        shutil.copy(rooms.parent / "a.png", rooms.parent / row["image"])
    rooms.write_text("\n".join(map(json.dumps, rows)))
    killed, never = (replace(options, out=options.out.parent / name, formats=("ply", "xyz")) for name in "kn")
    # The manifest written and not named, a cloud too, a row not appended, in the middle of a picture, at the end.
    for call, at, finished in (
        ("fsync", 1, None),
        ("replace", 2, 0),
        ("write", 1, 0),
        ("write", 4, 3),
        ("fsync", 9, 6),
        ("replace", 14, 12),
    ):
        run_until(pointcloud, killed, call, at)
        if finished is not None:
            done = [row for row in read_clouds(killed.out).values() if row.status == "done"]
            assert len(done) == finished
            assert all((killed.out / path).stat().st_size > 0 for row in done for path in row.outputs.values())
    assert pointcloud(killed).skipped == 12
    pointcloud(never)
    assert tree(killed.out) == tree(never.out)


def test_other_settings_refuse_to_mix(options):
    pointcloud(options)
    before = tree(options.out)
    with pytest.raises(DatoolError, match="max_depth_m was None, now 4") as caught:
        pointcloud(replace(options, max_depth_m=4))
    assert "--overwrite" in caught.value.hint and tree(options.out) == before
    assert pointcloud(replace(options, max_depth_m=4, overwrite=True)).done == 3
    assert points(options.out / "a.ply")[:, 2].max() <= 4


def test_files_of_others_and_maps_of_predict_are_left_alone(options):
    options.out.mkdir()
    (options.out / "a.ply").write_bytes(b"mine")
    with pytest.raises(DatoolError, match=r"a\.ply exists"):
        pointcloud(options)
    assert pointcloud(replace(options, overwrite=True)).done == 3
    (options.out / MANIFEST).write_text('{"some": "thing"}\n')
    with pytest.raises(DatoolError, match="not a row of clouds"):
        pointcloud(options)


def test_a_broken_picture_is_a_failed_row_and_is_tried_again(options, rooms):
    good = (rooms.parent / "a.png").read_bytes()
    (rooms.parent / "a.png").write_bytes(good[:50])
    summary = pointcloud(options)
    assert summary.done == 2 and list(reasons(summary)) == ["a.png"] and "cut short" in reasons(summary)["a.png"]
    (rooms.parent / "a.png").write_bytes(good)
    assert (pointcloud(options).done, read_clouds(options.out)[str(rooms.parent / "a.png")].status) == (1, "done")


def test_a_full_disk_stops_the_run(options, monkeypatch):
    def fsync(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    pointcloud(replace(options, max_points=5))
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DatoolError, match="disk full"):
        pointcloud(replace(options, max_points=6, overwrite=True))
    assert not list(options.out.rglob("*.tmp"))


def test_thinning_and_axes_reach_the_files(options):
    pointcloud(replace(options, max_points=100, axes="z-up", formats=("ply", "xyz")))
    cloud = points(options.out / "sub/b.ply")
    assert len(cloud) == 100 == read_clouds(options.out)[list(read_clouds(options.out))[1]].points
    # The far wall is 5 m ahead along y, and the ceiling 1.4 m up along z.
    assert np.allclose([cloud[:, 1].max(), cloud[:, 2].max()], [5, 1.4], atol=1e-3)
    voxels = replace(options, out=options.out.parent / "voxels", voxel_m=0.3)
    assert 20 < pointcloud(voxels).points < 3 * 48 * 64 / 5


def test_masks_and_confidence_are_honoured(options, rooms):
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    cv2.imwrite(str(rooms.parent / "left.png"), mask)
    edit(rooms, mask="left.png")
    pointcloud(options)
    assert points(options.out / "a.ply")[:, 0].max() < 0.1
    edit(rooms, mask=None, confidence="left.png")
    sure = replace(options, out=options.out.parent / "sure", min_confidence=0.5)
    pointcloud(sure)
    assert points(sure.out / "a.ply")[:, 0].max() < 0.1
    assert all(row.dropped["masked"] == 48 * 32 for row in read_clouds(sure.out).values())
    edit(rooms, confidence=None)
    with pytest.raises(DatoolError, match="no row has a confidence map"):
        pointcloud(replace(sure, overwrite=True))


def test_a_mask_counts_where_depth_is_predicted_too(options, rooms, weights):
    mask = np.zeros((24, 32), np.uint8)
    mask[:, :16] = 255
    cv2.imwrite(str(rooms.parent / "left.png"), mask)
    edit(rooms, mask="left.png", depth=None)
    model = str(weights / "nano-metric.safetensors")
    pointcloud(replace(options, model=model, device="cpu", grazing_deg=0, edge=1e9))
    assert {row.dropped["masked"] for row in read_clouds(options.out).values()} == {48 * 32}
    assert points(options.out / "a.ply")[:, 0].max() < 0
    cv2.imwrite(str(rooms.parent / "left.png"), mask[:, :20])
    assert "of another aspect" in str(reasons(pointcloud(replace(options, model=model, overwrite=True))))


# Scale


def relative(rooms, ambiguity="scale-and-shift"):
    """Make the room's maps what a relative model would predict: 2 / depth + 3."""
    for path in rooms.parent.rglob("*.npz"):
        values = np.load(path)["values"]
        np.save(path.with_suffix(".npy"), 2 / values + 3)
    rows = [json.loads(line) for line in rooms.read_text().splitlines()]
    for row in rows:
        row |= {"depth": row["depth"].replace(".npz", ".npy"), "quantity": "disparity", "ambiguity": ambiguity}
    rooms.write_text("\n".join(map(json.dumps, rows)))


def test_bare_disparity_is_refused_with_the_ways_out(options, rooms):
    relative(rooms)
    summary = pointcloud(options)
    assert summary.done == 0 and len(summary.failed) == 3
    for reason in reasons(summary).values():
        assert all(way in reason for way in ("--model v2-metric", "--calibration", "--relative", "disparity"))


def test_relative_clouds_say_that_they_have_no_unit(options, rooms):
    relative(rooms)
    summary = pointcloud(replace(options, relative=True, formats=("ply", "html")))
    assert summary.done == 3
    row = next(iter(read_clouds(options.out).values()))
    assert row.unit == "" and "percentile" in row.depth_from
    head = (options.out / row.outputs["ply"]).read_bytes()[:400].decode("ascii", "replace")
    assert "unit: none" in head and "percentile" in head
    assert "without a unit" in (options.out / row.outputs["html"]).read_text()
    with pytest.raises(DatoolError, match="without metres"):
        pointcloud(replace(options, out=options.out.parent / "m", relative=True, max_depth_m=3))


def test_a_calibration_makes_disparity_metric(options, rooms, tmp_path):
    exact = tmp_path / "exact"
    pointcloud(replace(options, out=exact))
    relative(rooms)
    path = tmp_path / "room.json"
    line = Calibration(0.5, -1.5, (48, 64), "points", 20)
    write_calibration(path, Calibrations("", "", None, shared=line))
    assert pointcloud(replace(options, calibration=path)).done == 3
    for name in YAWS:
        assert np.allclose(points(options.out / f"{name}.ply"), points(exact / f"{name}.ply"), atol=1e-3)
    assert all(row.unit == "m" and "room.json" in row.depth_from for row in read_clouds(options.out).values())
    metric = replace(options, inputs=[str(rooms.parent / "a.npz")], out=tmp_path / "m", calibration=path, fov_deg=70)
    assert "metric already" in reasons(pointcloud(metric))["a.npz"]


# From photos


def test_photos_are_predicted_with_a_metric_model(options, rooms, weights):
    photos = rooms.parent
    asked = replace(options, inputs=[str(photos / "*.png"), str(photos / "sub" / "b.png")], device="cpu")
    asked = replace(asked, model=str(weights / "nano-metric.safetensors"), assume_fov=60, grazing_deg=0, edge=1e9)
    summary = pointcloud(asked)
    assert (summary.done, dict(summary.cameras)) == (2, {"--assume-fov 60": 2})
    row = next(iter(read_clouds(asked.out).values()))
    assert row.model == "nano-metric" and row.points == 48 * 64 and row.unit == "m"
    assert pointcloud(asked).skipped == 2
    (asked.out / row.outputs["ply"]).unlink()
    assert pointcloud(replace(asked, model="auto")).done == 1  # what OUT holds
    with pytest.raises(DatoolError, match="without scale") as caught:
        pointcloud(replace(asked, out=options.out.parent / "r", model=str(weights / "nano.safetensors")))
    assert "--relative" in caught.value.hint
    assert (
        pointcloud(
            replace(asked, out=options.out.parent / "r", model=str(weights / "nano.safetensors"), relative=True)
        ).done
        == 2
    )


def test_a_photo_whose_camera_nobody_knows_fails_with_the_way_out(options, rooms, weights):
    asked = replace(options, inputs=[str(rooms.parent / "a.png")], model=str(weights / "nano-metric.safetensors"))
    (reason,) = reasons(pointcloud(asked)).values()
    assert "no camera is known" in reason and "--assume-fov 60" in reason


def test_what_predict_wrote_is_taken_with_its_photos(options, rooms, weights, tmp_path):
    maps = tmp_path / "maps"
    photos = [str(rooms.parent / "a.png"), str(rooms.parent / "sub")]
    predict(PredictOptions(inputs=photos, out=maps, model=str(weights / "nano-metric.safetensors"), device="cpu"))
    asked = replace(options, inputs=[str(maps)], fov_deg=70, grazing_deg=0, edge=1e9)
    assert pointcloud(asked).done == 3
    assert {name for name in tree(asked.out) if name.endswith(".ply")} == {"a.ply", "b.ply", "c.ply"}
    predicted = points(asked.out / "a.ply")
    again = replace(
        asked, inputs=photos[:1], model=str(weights / "nano-metric.safetensors"), out=tmp_path / "direct", device="cpu"
    )
    pointcloud(again)
    assert np.allclose(points(again.out / "a.ply"), predicted, rtol=1e-3, atol=1e-3)


# From maps


def test_maps_find_their_photos_and_say_what_they_mean(options, rooms, tmp_path):
    folder = rooms.parent
    asked = replace(options, inputs=[str(folder / "a.npz"), str(folder / "sub")], fov_deg=70)
    os.rename(folder / "sub" / "b.png", folder / "sub" / "b.jpg.png")  # c keeps its photo, though a PNG may be a map
    views = list_views(asked.inputs)
    assert [view.file.relative.as_posix() for view in views] == ["a.npz", "b.npz", "c.npz"]
    assert pointcloud(asked).done == 3
    with_photos = replace(asked, inputs=[str(folder / "a.npz")], photos=folder, out=tmp_path / "p")
    pointcloud(with_photos)
    o3d = pytest.importorskip("open3d")
    photo = cv2.imread(str(folder / "a.png"))[:, :, ::-1].reshape(-1, 3)
    cloud = o3d.io.read_point_cloud(str(with_photos.out / "a.ply"))
    assert np.allclose(np.asarray(cloud.colors) * 255, photo[: len(cloud.colors)], atol=40) or len(cloud.colors) < len(
        photo
    )
    missing = replace(with_photos, photos=tmp_path, out=tmp_path / "q")
    assert "not there" in reasons(pointcloud(missing))["a.npz"]
    depth = (rooms.parent / "depth.png").as_posix()
    cv2.imwrite(depth, np.full((48, 64), 2000, np.uint16))
    (view,) = list_views([depth], MapMeaning(divisor=1000), folder)
    assert view.photo != Path(depth), "a map is not its own photo"


def test_pictures_of_maps_are_not_taken_for_photos(options, rooms, tmp_path):
    write_map(tmp_path / "a.color.png", render(CAMERA, turned(0))[0], "color")
    asked = replace(options, inputs=[str(tmp_path / "a.color.png")], fov_deg=70, relative=True)
    assert "a picture of a map" in reasons(pointcloud(asked))["a.color.png"]


def test_bare_numbers_need_a_meaning(options, tmp_path):
    depth, _, _ = render(CAMERA, turned(0))
    np.save(tmp_path / "z.npy", depth.values)
    cv2.imwrite(str(tmp_path / "mm.png"), np.rint(depth.values * 1000).astype(np.uint16))
    asked = replace(options, inputs=[str(tmp_path / "z.npy")], fov_deg=70)
    assert "--quantity depth" in reasons(pointcloud(asked))["z.npy"]
    said = replace(asked, out=tmp_path / "said", meaning=MapMeaning(quantity=Quantity.DEPTH))
    assert pointcloud(said).done == 1
    other = replace(asked, out=tmp_path / "mm", inputs=[str(tmp_path / "mm.png")], meaning=MapMeaning(divisor=1000))
    assert pointcloud(other).done == 1
    assert np.allclose(points(other.out / "mm.ply"), points(said.out / "z.ply"), atol=2e-3)
    for name, values in {"zero": np.where(depth.values > 4, 0, depth.values), "mm3": depth.values[:, :, None]}.items():
        np.save(tmp_path / f"{name}.npy", values if name == "zero" else np.rint(values * 1000).astype(np.uint16))
    zero = replace(said, inputs=[str(tmp_path / "zero.npy")], out=tmp_path / "zero")
    assert "--divisor 1." in reasons(pointcloud(zero))["zero.npy"]
    pointcloud(replace(zero, meaning=MapMeaning(quantity=Quantity.DEPTH, divisor=1), overwrite=True))
    assert 1 < points(zero.out / "zero.ply")[:, 2].max() <= 4
    whole = replace(said, inputs=[str(tmp_path / "mm3.npy")], out=tmp_path / "mm3", meaning=MapMeaning(divisor=1000))
    assert pointcloud(whole).done == 1
    assert np.allclose(points(whole.out / "mm3.ply"), points(said.out / "z.ply"), atol=2e-3)
    no_photo = read_clouds(said.out)[str(tmp_path / "z.npy")]
    assert no_photo.status == "done" and no_photo.camera_from == "--fov-deg 70"


def test_lists_name_maps_too(options, rooms, tmp_path):
    (tmp_path / "list.txt").write_text(f"{rooms.parent}/a.npz\n{rooms.parent}/sub/b.npz\n")
    assert [view.is_predicted for view in list_views([str(tmp_path / "list.txt")])] == [False, False]
    assert [view.is_predicted for view in list_views([str(rooms.parent / "a.png")])] == [True]


@pytest.mark.parametrize("how", ["glob", "list", "stdin"])
def test_maps_of_others_are_named_by_glob_list_and_stdin(options, tmp_path, monkeypatch, how):
    folder = tmp_path / "maps"
    folder.mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((48, 64), 2000, np.uint16))
    names = f"{folder}/a.png\n{folder}/b.png\n"
    (tmp_path / "list.txt").write_text(names)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
    given = {"glob": f"{folder}/*.png", "list": str(tmp_path / "list.txt"), "stdin": "-"}[how]
    views = list_views([given], MapMeaning(divisor=1000))
    assert [view.map for view in views] == [folder / "a.png", folder / "b.png"]
    assert all((view.read()[1].values == 2).all() for view in views)


def test_a_glob_of_maps_of_any_kind_and_their_photos(rooms):
    views = list_views([f"{rooms.parent}/sub/*"])
    assert [(view.map is None, view.file.path.name) for view in views if view.map] == [
        (False, "b.npz"),
        (False, "c.npz"),
    ]


def test_a_depth_map_is_not_predicted_as_a_photo(options, tmp_path, weights):
    path = tmp_path / "kinect.png"
    cv2.imwrite(str(path), np.full((48, 64), 2000, np.uint16))
    model = str(weights / "nano-metric.safetensors")
    asked = replace(options, inputs=[str(path)], fov_deg=60, model=model, out=tmp_path / "k", device="cpu")
    assert "--divisor 1000" in reasons(pointcloud(asked))["kinect.png"]
    assert pointcloud(replace(asked, as_photo=True)).done == 1
    divided = replace(asked, meaning=MapMeaning(divisor=1000), out=tmp_path / "d")
    pointcloud(divided)
    assert np.allclose(points(divided.out / "kinect.ply")[:, 2], 2)


def test_inputs_of_equal_names_do_not_meet(options, rooms, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_map(other / "a.npz", render(CAMERA, turned(10))[0], "npz")
    asked = replace(options, inputs=[str(rooms), str(other)], intrinsics=tmp_path / "k.txt")
    (tmp_path / "k.txt").write_text(f"{CAMERA.fx_px} {CAMERA.fy_px} {CAMERA.cx_px - 0.5} {CAMERA.cy_px - 0.5}")
    assert pointcloud(asked).done == 4
    assert {name for name in tree(asked.out) if name.endswith("a.ply")} == {"rooms/a.ply", "other/a.ply"}


def test_one_folder_does_not_take_clouds_of_equal_names_from_two(options, rooms, tmp_path):
    first = replace(options, inputs=[str(rooms.parent / "a.npz")], fov_deg=70)
    pointcloud(first)
    before = tree(options.out)
    other = tmp_path / "other"
    other.mkdir()
    write_map(other / "a.npz", render(CAMERA, turned(10))[0], "npz")
    with pytest.raises(DatoolError, match="is the cloud of"):
        pointcloud(replace(first, inputs=[str(other)]))
    assert tree(options.out) == before


# Fused


def test_frames_are_fused_by_their_poses(options, rooms, tmp_path):
    asked = replace(options, fuse=True, voxel_m=0.06, formats=("ply", "glb", "html", "png"))
    summary = pointcloud(asked)
    assert (summary.done, summary.failed) == (3, ())
    assert sorted(tree(asked.out)) == ["fused.cloud.png", "fused.glb", "fused.html", "fused.ply", MANIFEST]
    cloud = points(asked.out / "fused.ply")
    off = np.minimum(np.abs(cloud - LOW), np.abs(cloud - HIGH)).min(axis=1)
    assert np.median(off) < 0.01 and len(cloud) == summary.points
    assert pointcloud(asked).skipped == 3
    with pytest.raises(DatoolError, match="not named now"):
        (rooms.parent / "two.jsonl").write_text("\n".join(rooms.read_text().splitlines()[:2]))
        pointcloud(replace(asked, inputs=[str(rooms.parent / "two.jsonl")]))
    rows = [json.loads(line) for line in rooms.read_text().splitlines()]
    lines = [json.dumps({"image": row["image"], "pose": row.pop("pose")}) for row in rows]
    rooms.write_text("\n".join(map(json.dumps, rows)))
    assert all(
        "no pose" in reason or "no frame" in reason
        for _, reason in pointcloud(replace(asked, out=tmp_path / "n")).failed
    )
    (tmp_path / "poses.jsonl").write_text("\n".join(lines))
    (tmp_path / "kitti.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 4)
    with pytest.raises(DatoolError, match="has 4 poses, the inputs are 3"):
        pointcloud(replace(asked, out=tmp_path / "k", poses=tmp_path / "kitti.txt"))
    from_file = replace(asked, out=tmp_path / "f", poses=tmp_path / "poses.jsonl")
    pointcloud(from_file)
    for name in ("fused.ply", "fused.glb"):
        assert (from_file.out / name).read_bytes() == (asked.out / name).read_bytes()


# The command


@pytest.mark.parametrize("format, library", [("glb", "trimesh"), ("las", "laspy")])
def test_a_missing_library_is_told_before_any_work(options, monkeypatch, format, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DatoolError, match=rf"optional library.*datool\[{format}\]"):
        pointcloud(replace(options, formats=("ply", format)))
    assert not options.out.exists()


def test_the_command_tells_what_it_did_and_fails_where_something_failed(options, rooms):
    runner = CliRunner()
    done = runner.invoke(app, ["pointcloud", str(rooms), "--out", str(options.out), "--format", "ply,xyz"])
    assert done.exit_code == 0 and "the data set" in done.stdout and "3, " in done.stdout
    again = runner.invoke(app, ["pointcloud", str(rooms), "--out", str(options.out), "--format", "xyz,ply", "--json"])
    assert json.loads(again.stdout)["skipped"] == 3
    relative(rooms)
    refused = runner.invoke(app, ["pointcloud", str(rooms), "--out", str(options.out) + "2"])
    assert refused.exit_code == 1 and "--relative" in refused.stderr
    for bad in (
        ["--format", "stl"],
        ["--axes", "up"],
        ["--quantity", "metres"],
        ["--poses", "p.txt"],
        ["--voxel-m", "0"],
        ["--seed", "-1"],
        ["--grazing-deg", "200"],
        ["--divisor", "0"],
        ["--focal-px", "-5"],
    ):
        wrong = runner.invoke(app, ["pointcloud", str(rooms), "--out", str(options.out) + "3", *bad])
        assert wrong.exit_code == 1 and "error" in wrong.stderr, bad


def test_the_options_of_the_command_are_those_of_the_job():
    from typer.main import get_command

    offered = {item.name: item.default for item in get_command(app).commands["pointcloud"].params}
    job = CloudOptions(inputs=[], out=Path())
    assert offered["format"] == ",".join(job.formats)
    for name in ("model", "edge", "grazing_deg", "seed", "axes", "fuse", "relative", "overwrite"):
        assert offered[name] == getattr(job, name), name
