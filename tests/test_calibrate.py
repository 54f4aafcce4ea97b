from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from datool.calibration import read_calibration
from datool.cli import app
from datool.data.manifest import read_manifest
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.load import load
from datool.files import read_map, write_map
from datool.files.images import EXIF_ORIENTATION
from datool.jobs.calibrate.calibrate import CalibrateOptions, GroundOptions, calibrate
from datool.jobs.predict.predict import PredictOptions, predict
from datool.models.depth_anything import build_model
from datool.models.weights import save

REAL = Path(__file__).parents[2] / "shared" / "real"
HEIGHT, WIDTH = 48, 64
SCALE, SHIFT = 0.05, 0.1


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save(path, build_model("nano"), "nano")
    return path


def photo(path, seed=0, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC))
    return path


def disparity(seed=0):
    """A smooth map of disparity from 1 to 9."""
    coarse = np.random.default_rng(seed).uniform(1, 9, (6, 8)).astype(np.float32)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def depth_of(pred, scale=SCALE, shift=SHIFT):
    return 1 / (scale * pred.astype(np.float64) + shift)


@pytest.fixture
def folder(tmp_path):
    """Two photos, and a map of each by another program."""
    for seed, name in enumerate("ab"):
        photo(tmp_path / "photos" / f"{name}.png", seed)
        (tmp_path / "maps").mkdir(exist_ok=True)
        np.save(tmp_path / "maps" / f"{name}.npy", disparity(seed))
    return tmp_path


@pytest.fixture
def options(folder):
    return CalibrateOptions(
        out=folder / "c.json", inputs=[str(folder / "photos/a.png")], maps=str(folder / "maps"), device="cpu"
    )


def points_file(path, seeds, depths, num=12):
    lines = []
    for name, seed in seeds.items():
        rng = np.random.default_rng(seed)
        for row, column in zip(rng.integers(0, HEIGHT, num), rng.integers(0, WIDTH, num), strict=True):
            lines.append(f"{name}{column + 0.5},{row + 0.5},{float(depths[seed][row, column])!r}")
    path.write_text("\n".join(lines))
    return path


def is_exact(row, rtol=1e-3):
    return np.allclose([row.scale_per_m, row.shift_per_m], [SCALE, SHIFT], rtol=rtol)


def test_points_recover_scale_and_shift(options, folder):
    depths = {seed: depth_of(disparity(seed)) for seed in (0, 1)}
    one = calibrate(replace(options, points=points_file(folder / "p.csv", {"": 0}, depths)))
    (row,) = one.calibrations.images.values()
    assert is_exact(row) and row.found_by == "points" and row.num_points == 12 and row.abs_rel < 1e-4
    file = points_file(folder / "p2.csv", {"a.png,": 0, "photos/b.png,": 1}, depths)
    both = calibrate(replace(options, inputs=[str(folder / "photos")], points=file, overwrite=True))
    assert len(both.calibrations.images) == 2 and all(map(is_exact, both.calibrations.images.values()))
    assert replace(read_calibration(options.out), sha256="") == both.calibrations


def test_a_wrong_point_is_set_aside(options, folder):
    depth = depth_of(disparity())
    spots = [
        f"{x}.5,{y}.5,{depth[y, x]}" for x, y in ((3, 4), (50, 7), (20, 40), (60, 44), (33, 21), (8, 30), (44, 33))
    ]
    (row,) = calibrate(replace(options, point=[*spots, "30.5,10.5,400"])).calibrations.images.values()
    assert is_exact(row) and row.num_outliers == 1


@pytest.mark.parametrize("how", ["png", "npy", "own png", "exr", "folder", "pattern"])
def test_sparse_depth_recovers_them(options, folder, how):
    depth = depth_of(disparity())
    depth[np.random.default_rng(0).random(depth.shape) > 0.1] = 0
    place, divisor = folder / "lidar/a.png", None
    place.parent.mkdir()
    if how in ("png", "folder", "pattern"):
        cv2.imwrite(str(place), np.rint(depth * 256).astype(np.uint16))
        divisor = 256
    elif how == "npy":
        place = place.with_suffix(".npy")
        np.save(place, depth)
    else:
        place = place.with_suffix(f".{how.split()[-1]}")
        values = np.where(depth > 0, depth, np.nan).astype(np.float32)
        write_map(place, DepthMap(values, Quantity.DEPTH, Ambiguity.NONE), "png16" if how == "own png" else "exr")
    given = {"folder": str(place.parent), "pattern": str(place.parent / "{stem}.png")}.get(how, str(place))
    (row,) = calibrate(replace(options, sparse=given, divisor=divisor)).calibrations.images.values()
    assert is_exact(row, 0.01) and 200 < row.num_points < 400


def test_pixels_without_a_divisor_are_told_to_need_one(options, folder):
    cv2.imwrite(str(folder / "a.png"), np.full((HEIGHT, WIDTH), 1000, np.uint16))
    with pytest.raises(DatoolError, match=r"without datool's text.*--divisor 256"):
        calibrate(replace(options, sparse=str(folder / "a.png")))


def test_sparse_depth_may_be_smaller_than_the_photo(options, folder):
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    np.save(folder / "maps/a.npy", (1 + 0.1 * y + 0.05 * x).astype(np.float32))
    y, x = np.mgrid[:12, :16] * 4 + 2
    np.save(folder / "small.npy", depth_of(1 + 0.1 * y + 0.05 * x))
    (row,) = calibrate(replace(options, sparse=str(folder / "small.npy"))).calibrations.images.values()
    assert is_exact(row, 1e-4)


def labels(folder, scales=(SCALE, SCALE)):
    lines = []
    for seed, (name, scale) in enumerate(zip("ab", scales, strict=True)):
        np.save(folder / f"{name}.depth.npy", depth_of(disparity(seed), scale).astype(np.float32))
        lines.append(json.dumps({"image": f"photos/{name}.png", "depth": f"{name}.depth.npy"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"


def test_labels_give_each_photo_its_own(options, folder):
    summary = calibrate(replace(options, inputs=(), labelled=labels(folder, (SCALE, 0.2))))
    scales = {Path(path).name: row.scale_per_m for path, row in summary.calibrations.images.items()}
    assert scales == {"a.png": pytest.approx(SCALE, rel=1e-3), "b.png": pytest.approx(0.2, rel=1e-3)}


def test_photos_of_one_camera_share_one(options, folder):
    summary = calibrate(replace(options, inputs=(), labelled=labels(folder), shared=True))
    shared = summary.calibrations.shared
    assert is_exact(shared) and not shared.warnings and not summary.calibrations.images
    assert all(fit.shared_median_error < 1e-4 for fit in summary.photos)
    unlike = calibrate(replace(options, inputs=(), labelled=labels(folder, (SCALE, 0.2)), shared=True, overwrite=True))
    assert any("do not share a scale well" in text for text in unlike.calibrations.shared.warnings)


def test_a_shared_one_needs_few_points_of_each_photo(options, folder):
    depths = {seed: depth_of(disparity(seed)) for seed in (0, 1)}
    file = points_file(folder / "p.csv", {"a.png,": 0, "b.png,": 1}, depths, num=1)
    both = replace(options, inputs=[str(folder / "photos")], points=file, shared=True)
    assert is_exact(calibrate(both).calibrations.shared)
    photo(folder / "photos/c.png", 3, 40, 90)
    np.save(folder / "maps/c.npy", np.ones((40, 90), np.float32))
    with pytest.raises(DatoolError, match=r"one camera that stands still: .*a.png is 64x48, .*c.png is 90x40"):
        calibrate(replace(both, inputs=[str(folder / "photos")], overwrite=True))


def plane(folder, focal_px=60.0, height_m=1.5, pitch_deg=4.0):
    """The disparity of flat ground under a camera, sky above; and its horizon."""
    pitch = math.radians(pitch_deg)
    y = np.repeat(np.arange(HEIGHT)[:, None] + 0.5 - HEIGHT / 2, WIDTH, axis=1)
    disparity = np.maximum((math.cos(pitch) * y / focal_px + math.sin(pitch)) / height_m, 0)
    np.save(folder / "maps/a.npy", ((disparity - SHIFT) / SCALE).astype(np.float32))
    return disparity, HEIGHT / 2 - focal_px * math.tan(pitch)


def test_the_ground_recovers_them(options, folder):
    truth, horizon = plane(folder)
    for number, ground in enumerate(
        (
            GroundOptions(height_m=1.5, pitch_deg=4, focal_px=60),
            GroundOptions(height_m=1.5, horizon_row=horizon, focal_px=60),
            GroundOptions(height_m=1.5, pitch_deg=4, fov_deg=math.degrees(2 * math.atan(WIDTH / 2 / 60))),
        )
    ):
        out = folder / f"{number}.json"
        (row,) = calibrate(replace(options, out=out, ground=ground)).calibrations.images.values()
        assert is_exact(row, 1e-4) and "camera 1.5 m above it" in row.found_by
    found = read_calibration(out).apply(options.inputs[0], DepthMap(np.load(folder / "maps/a.npy"), *RELATIVE))
    below = truth > 0.01
    assert np.allclose(found.values[below], 1 / truth[below], rtol=1e-3)


def test_the_ground_is_looked_for_where_the_mask_says(options, folder):
    plane(folder)
    pred = np.load(folder / "maps/a.npy")
    pred[:, 20:] = 9  # most of the picture is no ground
    np.save(folder / "maps/a.npy", pred)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :20] = 255
    cv2.imwrite(str(folder / "mask.png"), mask)
    ground = GroundOptions(height_m=1.5, pitch_deg=4, focal_px=60, mask=folder / "mask.png")
    (row,) = calibrate(replace(options, ground=ground)).calibrations.images.values()
    assert is_exact(row, 1e-4) and row.num_outliers == 0


def test_ground_needs_a_camera(options):
    with pytest.raises(DatoolError, match=r"no camera is known.*--focal-px"):
        calibrate(replace(options, ground=GroundOptions(height_m=1.5, pitch_deg=0)))


def test_a_slipping_horizon_is_warned_of(options, folder):
    plane(folder)
    (row,) = calibrate(
        replace(options, ground=GroundOptions(height_m=1.5, pitch_deg=4, focal_px=60))
    ).calibrations.images.values()
    assert any("a horizon wrong by 0.5 degrees would move depth" in text for text in row.warnings)


RELATIVE = (Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)


# From photos to metres


@pytest.fixture
def predicted(folder, weights):
    """Maps by a model, and depth that goes with them."""
    out = folder / "out"
    predict(
        PredictOptions(inputs=[str(folder / "photos")], out=out, model=str(weights), formats=("npz",), device="cpu")
    )
    maps = [read_map(out / f"{name}.npz").values for name in "ab"]
    assert all(np.ptp(values) > 1e-3 for values in maps)
    low, high = min(map(np.min, maps)), max(map(np.max, maps))
    scale = 0.9 / float(high - low)
    return {seed: 1 / (scale * (values.astype(np.float64) - low) + 0.1) for seed, values in enumerate(maps)}


def test_predict_writes_metres_with_a_calibration(predicted, folder, weights):
    photos = [str(folder / "photos")]
    file = points_file(folder / "p.csv", {"a.png,": 0, "b.png,": 1}, predicted, num=30)
    by_model = CalibrateOptions(out=folder / "c.json", inputs=photos, points=file, model=str(weights), device="cpu")
    calibrate(by_model)
    found = read_calibration(folder / "c.json")
    by_maps = calibrate(replace(by_model, out=folder / "c2.json", maps=str(folder / "out")))
    assert (by_maps.calibrations.model_sha256, by_maps.calibrations.size_px) == (found.model_sha256, found.size_px)
    for path, row in found.images.items():
        other = by_maps.calibrations.images[path]
        assert np.allclose([row.scale_per_m, row.shift_per_m], [other.scale_per_m, other.shift_per_m], rtol=1e-3)
    metric = PredictOptions(
        inputs=photos,
        out=folder / "metric",
        model=str(weights),
        formats=("npz",),
        device="cpu",
        calibration=folder / "c.json",
    )
    assert predict(metric).done == 2
    for seed, row in enumerate(read_manifest(folder / "metric").values()):
        depth = read_map(folder / "metric" / row.outputs["npz"])
        assert (row.quantity, row.ambiguity, row.calibration) == ("depth", "none", found.sha256)
        assert np.allclose(depth.values, predicted[seed], rtol=0.02)


def test_points_are_in_the_photo_as_it_is_seen(folder, weights):
    """Of a photo that is stored on its side, 64 wide and 48 high, and seen upright."""
    stored = Image.open(folder / "photos/a.png")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    stored.save(folder / "turned.jpg", exif=exif)
    turned = CalibrateOptions(
        out=folder / "c.json", inputs=[str(folder / "turned.jpg")], model=str(weights), device="cpu"
    )
    with pytest.raises(DatoolError, match=r"the point \(60, 1\) is outside the upright photo, which is 48 wide and 64"):
        calibrate(replace(turned, point=["60,1,1", "1,60,2"]))
    pred = load(weights, device="cpu").predict(folder / "turned.jpg").values
    low, high = (np.unravel_index(find(pred), pred.shape) for find in (np.argmin, np.argmax))
    points = [f"{column + 0.5},{row + 0.5},{metres}" for (row, column), metres in ((low, 4), (high, 2))]
    (row,) = calibrate(replace(turned, point=points)).calibrations.images.values()
    assert row.size == (64, 48) and row.scale_per_m == pytest.approx(0.25 / np.ptp(pred), rel=1e-3)


def test_another_calibration_does_not_mix(predicted, folder, weights):
    photos = [str(folder / "photos")]
    depths = {seed: depth * 2 for seed, depth in predicted.items()}
    for name, truth in (("c", predicted), ("c2", depths)):
        file = points_file(folder / "p.csv", {"a.png,": 0, "b.png,": 1}, truth)
        calibrate(
            CalibrateOptions(out=folder / f"{name}.json", inputs=photos, points=file, model=str(weights), device="cpu")
        )
    metric = PredictOptions(
        inputs=photos,
        out=folder / "metric",
        model=str(weights),
        formats=("npz",),
        device="cpu",
        calibration=folder / "c.json",
    )
    predict(metric)
    assert predict(metric).skipped == 2
    for other in (folder / "c2.json", None):
        with pytest.raises(DatoolError, match="another run: --calibration was"):
            predict(replace(metric, calibration=other))
    with pytest.raises(DatoolError, match="--calibration was none"):
        predict(replace(metric, out=folder / "out"))
    assert predict(replace(metric, calibration=folder / "c2.json", overwrite=True)).done == 2


def test_photos_without_a_calibration_and_other_sizes_are_refused(predicted, folder, weights):
    file = points_file(folder / "p.csv", {"": 0}, predicted)
    one = CalibrateOptions(
        out=folder / "c.json", inputs=[str(folder / "photos/a.png")], points=file, model=str(weights), device="cpu"
    )
    calibrate(one)
    metric = PredictOptions(
        inputs=[str(folder / "photos")],
        out=folder / "m",
        model=str(weights),
        formats=("npz",),
        device="cpu",
        calibration=one.out,
    )
    summary = predict(metric)
    assert summary.done == 1 and "no calibration of" in summary.failed[0][1]
    assert read_manifest(metric.out)[summary.failed[0][0]].network_size is None, "predicted in vain"
    with pytest.raises(DatoolError, match="is for --size 112, got 56"):
        predict(replace(metric, out=folder / "m2", size_px=56))


def test_a_metric_model_needs_none(options, tmp_path):
    save(tmp_path / "m.safetensors", build_model("nano-metric"), "nano-metric")
    with pytest.raises(DatoolError, match=r"nano-metric predicts depth with ambiguity 'none'"):
        calibrate(replace(options, maps=None, model=str(tmp_path / "m.safetensors"), point=["1,1,1"]))


# What goes wrong


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({}, "got nothing that tells true depth"),
        ({"point": ["1,1,1"], "sparse": "x.png"}, "got --points and --sparse"),
        ({"point": ["1,1,1"], "divisor": 2.0}, "--divisor is of --sparse"),
        ({"point": ["1,1,1"], "inputs": ()}, "no photo to calibrate"),
        ({"point": ["1,1"]}, "--point: got '1,1', expected x,y,metres"),
        ({"point": ["1,1,0"]}, "got 0 metres, expected a distance above 0"),
        ({"point": ["65,1,2", "1,1,1"]}, r"a.png: --point: the point \(65, 1\) is outside the upright photo"),
        ({"point": ["1,1,2"]}, "two different predicted disparities"),
        ({"point": ["other.png,1,1,2"]}, "'other.png' is the name of 0 of the 1 photos"),
        ({"points": Path("absent.csv")}, "cannot read points absent.csv: it is not there"),
        ({"sparse": "x.npy", "divisor": 0.0}, "--divisor is 0, expected a number above 0"),
        ({"sparse": "absent.png", "divisor": 256.0}, "cannot read map absent.png: it is not there"),
        ({"labelled": Path("absent.jsonl"), "inputs": ()}, "cannot read absent.jsonl"),
        ({"labelled": Path("x.jsonl")}, "names its photos itself"),
        ({"maps": "absent", "point": ["1,1,1"]}, "no folder of predictions absent"),
        ({"ground": GroundOptions(height_m=1.5, focal_px=60)}, "needs one of --pitch-deg and --horizon-row"),
        ({"ground": GroundOptions(height_m=1.5, pitch_deg=0, focal_px=60, fov_deg=60)}, "--focal-px and --fov-deg"),
    ],
)
def test_what_is_wrong_is_told(options, changes, problem):
    with pytest.raises(DatoolError, match=problem):
        calibrate(replace(options, **changes))
    assert not options.out.exists()


def test_an_unknown_pixel_at_a_point_is_told(options, folder):
    values = disparity()
    values[10, 20] = np.nan
    np.save(folder / "maps/a.npy", values)
    with pytest.raises(DatoolError, match=r"its map is unknown \(NaN\) at the point \(20.5, 10.5\)"):
        calibrate(replace(options, point=["20.5,10.5,3", "1,1,2"]))


def test_a_point_without_a_name_is_of_one_photo_only(options, folder):
    with pytest.raises(DatoolError, match="a point without an image's name is for 2 of the 2 photos"):
        calibrate(replace(options, inputs=[str(folder / "photos")], point=["1,1,1"]))


def test_maps_that_are_metric_or_of_two_models_are_refused(options, folder):
    for name, sha in (("a", "1"), ("b", "2")):
        (folder / f"maps/{name}.npy").unlink()
        meta = {"model": "nano", "model_sha256": sha, "size_px": "112"}
        write_map(folder / f"maps/{name}.npz", DepthMap(disparity(), *RELATIVE), "npz", meta=meta)
    points = ["a.png,1,1,1", "a.png,40,40,3", "b.png,1,1,1", "b.png,40,40,3"]
    near = disparity()[0, 0] < disparity()[39, 39]
    points = [text[:-1] + {"1": "3", "3": "1"}[text[-1]] if near else text for text in points]
    both = replace(options, inputs=[str(folder / "photos")], point=points)
    with pytest.raises(DatoolError, match="maps of several models"):
        calibrate(both)
    write_map(folder / "maps/a.npz", DepthMap(disparity(), Quantity.DEPTH, Ambiguity.NONE), "npz")
    with pytest.raises(DatoolError, match=r"calibrate says quantity 'disparity', .*a\.npz says 'depth'"):
        calibrate(replace(both, inputs=[str(folder / "photos/a.png")], point=points[:2]))


def test_one_bad_photo_does_not_stop_the_others(options, folder):
    depths = {seed: depth_of(disparity(seed)) for seed in (0, 1)}
    file = points_file(folder / "p.csv", {"a.png,": 0}, depths)
    (folder / "photos/c.png").write_bytes(b"no picture")
    summary = calibrate(replace(options, inputs=[str(folder / "photos")], points=file))
    assert [Path(path).name for path in summary.calibrations.images] == ["a.png"]
    assert {Path(path).name for path, _ in summary.failed} == {"b.png", "c.png"}


def test_what_is_there_is_kept(options, folder):
    options.out.write_text("mine")
    with pytest.raises(DatoolError, match="exists"):
        calibrate(replace(options, point=["1,1,1"]))
    assert options.out.read_text() == "mine"


# The command


def run(*arguments):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


def test_the_command_draws_and_warns(folder):
    depths = {seed: depth_of(disparity(seed)) for seed in (0, 1)}
    file = points_file(folder / "p.csv", {"": 0}, depths, num=4)
    done = run(folder / "photos/a.png", "--points", file, "--maps", folder / "maps", "--out", folder / "c.json")
    assert done.exit_code == 0, done.output
    assert "scale" in done.stdout and "an unknown model" in done.stdout and "pointcloud MAPS" in done.stdout
    assert "of 4 points a wrong one cannot be told" in done.stderr
    file = points_file(folder / "p.csv", {"a.png,": 0, "b.png,": 1}, depths)
    more = [folder / "photos", "--points", file, "--maps", folder / "maps", "--out", folder / "d.json"]
    done = run(*more)
    assert "a.png" in done.stdout and "b.png" in done.stdout
    done = run(*more, "--overwrite", "--shared")
    assert "median error, shared" in done.stdout
    found = json.loads(run(*more, "--overwrite", "--json").stdout)
    assert len(found["images"]) == 2 and found["failed"] == []


def test_the_command_tells_what_failed(folder):
    depths = {seed: depth_of(disparity(seed)) for seed in (0, 1)}
    file = points_file(folder / "p.csv", {"a.png,": 0}, depths)
    done = run(folder / "photos", "--points", file, "--maps", folder / "maps", "--out", folder / "c.json")
    assert done.exit_code == 1 and "b.png" in done.stderr and (folder / "c.json").exists()
    assert run(folder / "photos", "--pitch-deg", 1).exit_code == 2


# Real photos


@pytest.mark.skipif(not REAL.is_dir(), reason="needs real photos")
def test_twenty_points_of_a_real_room_are_nearly_as_good_as_all(tmp_path):
    """Median of 100 seeded draws, scored as lsq-disparity, which for all points gives .0241."""
    from datool.calibration import DepthSamples, fit_calibration, sample

    truth = cv2.imread(str(REAL / "nyu-room.gt.png"), cv2.IMREAD_UNCHANGED) / 1000
    pred = DepthMap(np.load(REAL / "nyu-room.da2-disparity.npy").astype(np.float32), *RELATIVE)
    rows, columns = np.nonzero((truth > 0.001) & (truth < 80))
    depth = truth[rows, columns]

    def abs_rel(num, seed):
        drawn = np.random.default_rng(seed).choice(len(rows), num, replace=False)
        known = DepthSamples(columns[drawn] + 0.5, rows[drawn] + 0.5, depth[drawn], truth.shape, dense=False)
        found = fit_calibration(sample(pred, known), known.depth_m, pred.values.ravel()[::97], truth.shape, "points")
        disparity = found.scale_per_m * pred.values[rows, columns].astype(np.float64) + found.shift_per_m
        return np.mean(np.abs(1 / np.maximum(disparity, 1 / depth.max()) / depth - 1))

    assert abs_rel(20_000, 0) < 0.0241
    assert np.median([abs_rel(20, seed) for seed in range(100)]) < 1.1 * 0.0241
