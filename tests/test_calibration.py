from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datool.calibration import (
    Calibration,
    Calibrations,
    DepthSamples,
    Ground,
    fit_calibration,
    fit_line,
    ground_samples,
    map_samples,
    parse_point,
    point_samples,
    read_calibration,
    read_points,
    sample,
    write_calibration,
)
from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError
from datool.files import read_map, write_map

SIZE = (60, 80)


def relative(values):
    return DepthMap(np.asarray(values, np.float32), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)


def calibration(scale=0.05, shift=0.1, size=SIZE):
    return Calibration(scale, shift, size, "points", 20)


def exact(num=20, scale=0.05, shift=0.1, seed=0):
    """Predictions and the depth that scale and shift make of them."""
    pred = np.random.default_rng(seed).uniform(1, 20, num)
    return pred, 1 / (scale * pred + shift)


def fit(pred, depth_m, **options):
    return fit_calibration(pred, depth_m, np.linspace(pred.min(), pred.max(), 101), SIZE, "points", **options)


# The line


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 50),
    st.floats(1e-4, 1e3),
    st.floats(-0.5, 10),
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
    st.integers(0, 9),
)
def test_a_known_scale_and_shift_come_back(num, scale, shift, offset, unit, seed):
    """For any number of points, and any zero and unit of the prediction."""
    rng = np.random.default_rng(seed)
    within = np.concatenate([[0, 1], rng.uniform(0, 1, num - 2)])
    truth = scale * (shift + 0.6 + within)
    pred = offset + unit * within
    line = fit_line(pred, truth)
    assert np.allclose(line.scale * pred + line.shift, truth, rtol=1e-6)
    assert np.isclose(line.scale, scale / unit, rtol=1e-6)


@pytest.mark.parametrize("num_wrong", range(1, 9))
def test_wrong_points_do_not_move_it(num_wrong):
    """Up to 8 of 20, wrong by anything, in clusters too."""
    for seed in range(20):
        pred, depth_m = exact(seed=seed)
        rng = np.random.default_rng(seed)
        wrong = rng.choice(20, num_wrong, replace=False)
        depth_m[wrong] *= rng.choice([100, 0.01, 3.28, 0.3], num_wrong) if seed % 2 else 100
        line = fit_line(pred, 1 / depth_m)
        assert np.allclose([line.scale, line.shift], [0.05, 0.1], rtol=1e-6)
        assert set(np.flatnonzero(line.counts == 0)) == set(wrong)


def test_wrong_points_move_a_noisy_line_little():
    errors = []
    for seed in range(50):
        pred, depth_m = exact(seed=seed)
        depth_m *= 1 + 0.02 * np.random.default_rng(seed).standard_normal(20)
        bad = depth_m.copy()
        bad[:3] *= 5
        clean, line = fit_line(pred, 1 / depth_m), fit_line(pred, 1 / bad)
        errors.append(abs(line.scale / clean.scale - 1))
    assert np.median(errors) < 0.01 and np.max(errors) < 0.1


def test_the_order_of_the_points_does_not_matter():
    pred, depth_m = exact(600)
    depth_m *= 1 + 0.1 * np.random.default_rng(1).standard_normal(600)
    groups = np.arange(600) % 16
    order = np.random.default_rng(2).permutation(600)
    one, other = fit_line(pred, 1 / depth_m, groups), fit_line(pred[order], 1 / depth_m[order], groups[order])
    assert np.allclose([one.scale, one.shift], [other.scale, other.shift], rtol=1e-9)
    assert np.allclose(one.counts[order], other.counts, atol=1e-9)
    assert np.allclose(one.covariance, other.covariance, rtol=1e-6)


def test_points_twice_are_as_points_once():
    pred, depth_m = exact()
    depth_m *= 1 + 0.01 * np.random.default_rng(1).standard_normal(20)
    one, twice = fit_line(pred, 1 / depth_m), fit_line(np.tile(pred, 9), 1 / np.tile(depth_m, 9))
    assert np.isclose(one.scale, twice.scale, rtol=0.02)


def test_the_standard_errors_are_those_of_repeated_fits():
    found, told = [], []
    for seed in range(300):
        pred, depth_m = exact(seed=0)
        line = fit_line(pred, 1 / depth_m * (1 + 0.05 * np.random.default_rng(seed).standard_normal(20)))
        found.append((line.scale, line.shift))
        told.append(np.sqrt(np.diag(line.covariance)))
    assert np.allclose(np.std(found, axis=0), np.median(told, axis=0), rtol=0.25)


def test_neighbours_that_err_together_count_as_one():
    errors = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(40), 9)
        pred = np.repeat(rng.uniform(1, 20, 40), 9)
        truth = (0.05 * pred + 0.1) * (1 + np.repeat(0.05 * rng.standard_normal(40), 9))
        truth *= 1 + 0.001 * rng.standard_normal(360)
        told = np.sqrt(np.diag(fit_line(pred, truth, groups).covariance))[0]
        errors.append((fit_line(pred, truth).scale - 0.05) / told)
    assert 0.6 < np.std(errors) < 1.6


@pytest.mark.parametrize("pred", [[], [3.0], [3.0, 3.0], [3.0, 3.0, 3.0]])
def test_points_of_one_disparity_are_refused(pred):
    with pytest.raises(DatoolError, match="two different predicted disparities"):
        fit_line(np.array(pred), np.ones(len(pred)))


def test_errors_that_rounding_takes_below_zero_are_zero():
    found = fit(np.array([2.0, 0.0, 2.0]), np.array([0.95, 114.54, 1.41]))
    assert found.shift_error_per_m == 0 and found.scale_error_per_m > 0 and found.correlation == 0


@pytest.mark.parametrize("num", [2, 20])
def test_points_of_one_depth_are_refused(num):
    with pytest.raises(DatoolError, match="all points are 3 m away"):
        fit(exact(num)[0], np.full(num, 3.0))


def test_a_line_upside_down_is_refused():
    pred, depth_m = exact()
    with pytest.raises(DatoolError, match="larger disparity would be farther"):
        fit(pred, 1 / depth_m)


# Whether to trust it


def doubts(pred, depth_m, spread=(0.0, 30.0)):
    found = fit_calibration(np.array(pred, float), np.array(depth_m, float), np.linspace(*spread, 101), SIZE, "points")
    return " ".join(found.warnings)


def test_good_points_raise_no_doubt():
    pred, depth_m = exact()
    depth_m *= 1 + 0.02 * np.random.default_rng(0).standard_normal(20)
    assert doubts(pred, depth_m, (1, 20)) == ""


def test_each_doubt_is_told():
    pred, depth_m = exact()
    noise = 1 + 0.02 * np.random.default_rng(0).standard_normal(20)
    assert "two points fit any line" in doubts(pred[:2], depth_m[:2])
    assert "of 4 points a wrong one cannot be told" in doubts(pred[:4], depth_m[:4])
    narrow = np.linspace(10, 10.5, 20)
    assert "the points span 2% of the map" in doubts(narrow, noise / (0.05 * narrow + 0.1))
    alone = np.append(np.linspace(10, 10.5, 20), 1)
    assert "the point at 6.67 m decides" in doubts(alone, np.append(noise, 1) / (0.05 * alone + 0.1))
    wrong = depth_m * noise
    wrong[:6] *= 4
    assert "6 of 20 points contradict" in doubts(pred, wrong)
    assert "far end" in doubts(pred, depth_m * noise**8, (-1.9, 20))
    assert "misses the points by" in doubts(pred, depth_m * noise**20)
    assert "are the distances in millimetres" in doubts(pred, 1000 * depth_m * noise, (1, 20))
    assert "the scale is uncertain by" in doubts(pred, 3 * noise**5, (1, 20))
    assert "of the map comes out as sky" in doubts(pred, depth_m, (-100, 20))


def test_the_error_of_depth_grows_away_from_the_points():
    pred, depth_m = exact()
    found = fit(pred, depth_m * (1 + 0.02 * np.random.default_rng(0).standard_normal(20)))
    errors = [found.depth_error_m(depth) / depth for depth in (2, 5, 20, 100)]
    assert errors == sorted(errors)
    assert fit(pred[:2], depth_m[:2]).depth_error_m(2.0) is None


# Applying it


def test_calibrated_disparity_is_the_truth():
    depth = np.random.default_rng(0).uniform(0.5, 80, SIZE).astype(np.float32)
    pred = relative((1 / depth - 0.1) / 0.05)
    found = calibration().apply(pred)
    assert (found.quantity, found.ambiguity) == (Quantity.DEPTH, Ambiguity.NONE)
    assert np.allclose(found.values, depth, rtol=1e-4)


def test_what_is_beyond_infinity_is_sky_and_unknown_stays_unknown():
    values = np.array([[-2.0, -3.0, -1e9], [np.nan, -1.999, 1e30]])
    found = calibration(size=(2, 3)).apply(relative(values))
    assert np.isposinf(found.values[0]).all()
    assert np.isnan(found.values[1, 0]) and 1e4 < found.values[1, 1] < 1e5 and found.values[1, 2] > 0
    assert (found.to(Quantity.DISPARITY).values[0] == 0).all()


def test_one_pixel_near_infinity_does_not_spoil_a_16_bit_png(tmp_path):
    """Depth of a picture whose disparity crosses 0 keeps a 5000th of the farthest known point in every format."""
    known = replace(calibration(0.05, -0.1, (100, 1000)), far_m=20.0)
    values = np.linspace(-3, 22, 100_000, dtype=np.float32).reshape(100, 1000)
    values[0, 0] = 2 + 1e-6
    depth = known.apply(relative(values))
    seen = depth.values[np.isfinite(depth.values)]
    assert seen.max() <= 400 and np.isposinf(depth.values[0, 0])
    write_map(tmp_path / "a.png", depth, "png16")
    again = read_map(tmp_path / "a.png").values
    assert np.array_equal(np.isinf(again), np.isinf(depth.values))
    assert np.abs(again[np.isfinite(again)] - seen).max() < 20 / 5000


def test_order_is_kept():
    values = np.sort(np.random.default_rng(0).normal(0, 10, 500)).astype(np.float32)
    depth = calibration(size=(1, 500)).apply(relative(values[None])).values[0]
    assert (depth[1:] <= depth[:-1]).all()


def test_maps_of_another_kind_or_shape_are_refused():
    metric = DepthMap(np.ones(SIZE, np.float32), Quantity.DEPTH, Ambiguity.NONE)
    with pytest.raises(DatoolError, match=r"got depth with ambiguity 'none'.*Metric maps need none"):
        calibration().apply(metric)
    with pytest.raises(DatoolError, match="80x60 photo, the map is 60x80"):
        calibration().apply(relative(np.ones((80, 60))))
    assert calibration().apply(relative(np.ones((30, 40)))).shape == (30, 40)


@pytest.mark.parametrize("scale, shift", [(0, 0), (-1, 0), (math.nan, 0), (1, math.inf)])
def test_impossible_calibrations_are_refused(scale, shift):
    with pytest.raises(DatoolError, match="finite and above 0"):
        calibration(scale, shift)


# The file


def test_what_is_written_comes_back(tmp_path):
    photo = tmp_path / "photos" / "größe 1.jpg"
    row = replace(calibration(), warnings=("a",), scale_error_per_m=0.1)
    wanted = Calibrations("nano", "ab" * 32, 112, {str(photo): row})
    write_calibration(tmp_path / "c.json", wanted)
    found = read_calibration(tmp_path / "c.json")
    assert replace(found, sha256="") == wanted and len(found.sha256) == 64
    text = json.loads((tmp_path / "c.json").read_text("ascii"))
    assert list(text["images"]) == ["photos/größe 1.jpg"] and "1/m" in text["meaning"]
    assert found.of(str(photo)) == row
    with pytest.raises(DatoolError, match=r"no calibration of .*other.jpg, there are 1: größe 1.jpg"):
        found.of(str(tmp_path / "other.jpg"))


def test_file_and_photos_move_together(tmp_path):
    (tmp_path / "a").mkdir()
    write_calibration(tmp_path / "a/c.json", Calibrations("m", "", None, {str(tmp_path / "a/x.jpg"): calibration()}))
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_calibration(tmp_path / "b/c.json").of(str(tmp_path / "b/x.jpg")) == calibration()


def test_a_shared_calibration_is_of_every_photo(tmp_path):
    write_calibration(tmp_path / "c.json", Calibrations("m", "", None, shared=calibration()))
    found = read_calibration(tmp_path / "c.json")
    assert found.apply("anything", relative(np.ones(SIZE))).values[0, 0] == pytest.approx(1 / 0.15)


def test_another_model_or_size_is_refused():
    found = Calibrations("nano", "ab" * 32, 112)
    found.check_model("nano", "ab" * 32, 112)
    with pytest.raises(DatoolError, match=r"is for nano abababab.*, got small cdcd"):
        found.check_model("small", "cd" * 32, 112)
    with pytest.raises(DatoolError, match="is for --size 112, got 518"):
        found.check_model("nano", "ab" * 32, 518)
    with pytest.raises(DatoolError, match="an unknown model's maps"):
        Calibrations("", "", None).check_model("nano", "ab" * 32, 112)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "no JSON"),
        ("[]", "not a 'datool calibration'"),
        ('{"format": "datool calibration", "version": 2}', "of version 1"),
        ('{"format": "datool calibration", "version": 1}', "a field is missing"),
        (
            '{"format": "datool calibration", "version": 1, "model": "", "model_sha256": "", "size_px": null, '
            '"images": {"a": {"scale_per_m": "x"}}}',
            "a field is missing or of another kind",
        ),
    ],
)
def test_broken_files_are_told(tmp_path, text, problem):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DatoolError, match=problem):
        read_calibration(tmp_path / "c.json")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DatoolError, match="it is not there"):
        read_calibration(tmp_path / "c.json")


# What is known


def test_points_are_read_with_and_without_names(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("\ufeffx,y,metres\n# the door\n 1.5, 2 ,3.25\n\n40,50,6\n")
    assert [(point.x_px, point.y_px, point.depth_m, point.image) for point in read_points(path)] == [
        (1.5, 2, 3.25, ""),
        (40, 50, 6, ""),
    ]
    path.write_text("image,x,y,metres\nsub/a b.jpg,1,2,3\n")
    assert read_points(path)[0].image == "sub/a b.jpg" and read_points(path)[0].where == f"{path}:2"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "has no points"),
        ("x,y,metres\n", "has no points"),
        ("1,2,3\n1,2\n", r"p.csv:2: got '1,2', expected x,y,metres"),
        ("1,2,nan\n", "p.csv:1: got '1,2,nan'"),
        ("1,2,0\n", "got 0 metres, expected a distance above 0"),
        ("1,2,-3\n", "got -3 metres"),
        ("1;2;3\n", "expected x,y,metres"),
    ],
)
def test_wrong_points_are_told(tmp_path, text, problem):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DatoolError, match=problem):
        read_points(tmp_path / "p.csv")


def test_points_outside_the_photo_are_told():
    with pytest.raises(DatoolError, match=r"the point \(81, 2\) is outside the upright photo, which is 80 wide and 60"):
        point_samples([parse_point("81,2,3")], SIZE)


def test_sampling_is_linear_between_pixel_centres_at_any_size():
    x, y = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
    known = point_samples([parse_point(text) for text in ("0.5,0.5,1", "10,20,1", "33.3,41.7,1", "79.5,59.5,1")], SIZE)
    assert np.allclose(sample(relative(2 * x + 3 * y), known), 2 * known.x_px + 3 * known.y_px, rtol=1e-5)
    x, y = np.meshgrid(2 * np.arange(40) + 1, 2 * np.arange(30) + 1)
    inside = known.of(np.array([1, 2]))
    assert np.allclose(sample(relative(2 * x + 3 * y), inside), 2 * inside.x_px + 3 * inside.y_px, rtol=1e-5)


def test_unknown_pixels_spoil_only_what_they_touch():
    values = np.ones(SIZE)
    values[20, 10] = np.nan
    places = [parse_point(text) for text in ("10.5,19.5,1", "10.5,20,1", "10.5,20.5,1", "12,20.5,1")]
    assert np.isnan(sample(relative(values), point_samples(places, SIZE))).tolist() == [False, True, True, False]


def test_a_map_is_known_where_it_has_values():
    values = np.full((30, 40), np.nan, np.float32)
    values[3, 5], values[0, 0] = 4, np.inf
    known = map_samples(DepthMap(values, Quantity.DEPTH, Ambiguity.NONE), SIZE)
    assert (known.x_px.tolist(), known.y_px.tolist(), known.depth_m.tolist()) == ([11], [7], [4])
    with pytest.raises(DatoolError, match="no pixel with a value"):
        map_samples(DepthMap(np.full(SIZE, np.nan, np.float32), Quantity.DEPTH, Ambiguity.NONE), SIZE)
    with pytest.raises(DatoolError, match="cropped or turned"):
        map_samples(DepthMap(np.ones((80, 60), np.float32), Quantity.DEPTH, Ambiguity.NONE), SIZE)


def plane_depth(camera, height_m, pitch_deg):
    """Depth of flat ground by intersecting each pixel's ray with it; inf above the horizon."""
    pitch = math.radians(pitch_deg)
    x, y = np.meshgrid(np.arange(camera.width_px) + 0.5, np.arange(camera.height_px) + 0.5)
    ray = np.stack([(x - camera.cx_px) / camera.fx_px, (y - camera.cy_px) / camera.fy_px, np.ones_like(x)], -1)
    down = ray @ [0, math.cos(pitch), math.sin(pitch)]
    return np.where(down > 0, height_m / np.maximum(down, 1e-12), np.inf)


@pytest.mark.parametrize("pitch_deg", [-10, 0, 3, 40])
def test_ground_is_the_plane_that_rays_meet(pitch_deg):
    camera = Camera(90, 80, 41, 28, *SIZE)
    depth = plane_depth(camera, 1.4, pitch_deg)
    horizon = 28 - 80 * math.tan(math.radians(pitch_deg))
    for ground in (Ground(1.4, pitch_deg=pitch_deg), Ground(1.4, horizon_row=horizon)):
        known = ground_samples(ground, camera)
        rows, columns = known.y_px.astype(int), known.x_px.astype(int)
        assert np.allclose(known.depth_m, depth[rows, columns], rtol=1e-9)
        assert rows.min() > horizon and rows.max() == 59 and len(np.unique(columns)) == 80


def test_flat_ground_calibrates_exactly_though_things_stand_on_it():
    camera = Camera(90, 80, 41, 28, *SIZE)
    depth = plane_depth(camera, 1.4, 3)
    depth[35:, 20:45] = 1.5  # a third of the ground is hidden
    pred = relative((1 / depth - 0.1) / 0.05)
    known = ground_samples(Ground(1.4, pitch_deg=3), camera)
    line = fit_line(sample(pred, known), 1 / known.depth_m, known.groups())
    assert np.allclose([line.scale, line.shift], [0.05, 0.1], rtol=1e-4)


def test_the_ground_is_looked_for_in_its_mask():
    mask = np.zeros((30, 40), bool)
    mask[:, 10:12] = True
    known = ground_samples(Ground(1.4, pitch_deg=0, mask=mask), Camera(90, 80, 41, 28, *SIZE))
    assert set(known.x_px.astype(int)) == {20, 21, 22, 23} and known.y_px.min() == 28.5


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"height_m": 0, "pitch_deg": 0}, "expected metres above 0"),
        ({"height_m": 1}, "needs one of --pitch-deg and --horizon-row"),
        ({"height_m": 1, "pitch_deg": 0, "horizon_row": 3}, "needs one of"),
        ({"height_m": 1, "pitch_deg": 91}, "expected -90"),
    ],
)
def test_impossible_grounds_are_refused(options, problem):
    with pytest.raises(DatoolError, match=problem):
        Ground(**options)


def test_a_horizon_below_the_picture_is_refused():
    with pytest.raises(DatoolError, match="no ground is seen"):
        ground_samples(Ground(1.4, pitch_deg=-40), Camera(90, 80, 41, 28, *SIZE))


def test_groups_are_cells_of_the_photo():
    known = DepthSamples(np.array([0.5, 79.5, 5]), np.array([0.5, 59.5, 5]), np.ones(3), SIZE, dense=True)
    assert known.groups().tolist() == [0, 63, 0]
