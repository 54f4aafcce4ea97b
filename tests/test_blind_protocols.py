"""Every protocol, alignment and metric against a second implementation that was written without reading the first."""

import json
from dataclasses import replace
from pathlib import Path

import blind_protocols as blind
import cv2
import numpy as np
import pytest

from datool.data.sources.da2k import read_pairs
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.evaluation.alignment import ALIGNMENTS
from datool.evaluation.benchmarks import BENCHMARKS, protocol_for
from datool.evaluation.metrics import METRICS, boundary_f1, whdr
from datool.evaluation.protocols import PROTOCOLS, override, resize_bilinear, score, score_pairs
from datool.evaluation.results import ImageRow, averaged
from datool.evaluation.selection import CROPS, one_a_cell, thinned

REAL = Path(__file__).parents[2] / "shared" / "real"
PIXEL = tuple(name for name, metric in METRICS.items() if metric.on == "pixels")
SHAPES = ((37, 53), (48, 64), (61, 97))
DEPTH, DISPARITY = Quantity.DEPTH, Quantity.DISPARITY
NONE, SCALE, AFFINE = Ambiguity.NONE, Ambiguity.SCALE, Ambiguity.SCALE_AND_SHIFT

# Crop -> its name here and there.
CROP_NAMES = {
    "none": "none",
    "garg": "garg",
    "eigen": "eigen-kitti",
    "eigen-nyu": "eigen",
    "kb": "benchmark",
    "kb-garg": "benchmark+garg",
    "kb-eigen": "benchmark+eigen-kitti",
}
# Benchmark, protocol -> the second implementation with its own constants of that set.
BENCHES = {
    ("nyu", "da-v2-reconstructed"): lambda *given: blind.da_v2_reconstructed(*given, *blind.DA_V2["nyu"]),
    ("nyu", "midas"): lambda *given: blind.midas(*given, blind.MIDAS["nyu"]),
    ("nyu", "marigold"): lambda *given: blind.marigold(*given, *blind.MARIGOLD["nyu"]),
    ("nyu", "zoe-metric"): lambda *given: blind.zoe_metric(*given, *blind.ZOE["nyu"]),
    ("nyu", "v2-metric"): lambda *given: blind.v2_metric(*given, blind.V2_MAX["hypersim"]),
    ("kitti", "da-v2-reconstructed"): lambda *given: blind.da_v2_reconstructed(*given, *blind.DA_V2["kitti"]),
    ("kitti", "midas"): lambda *given: blind.midas(*given, blind.MIDAS["kitti"]),
    ("kitti", "marigold"): lambda *given: blind.marigold(*given, *blind.MARIGOLD["kitti"]),
    ("kitti", "zoe-metric"): lambda *given: blind.zoe_metric(*given, *blind.ZOE["kitti"]),
    ("kitti", "v2-metric"): lambda *given: blind.v2_metric(*given, blind.V2_MAX["kitti"]),
    ("sintel", "da-v2-reconstructed"): lambda *given: blind.da_v2_reconstructed(*given, *blind.DA_V2["sintel"]),
    ("sintel", "midas"): lambda *given: blind.midas(*given, blind.MIDAS["sintel"]),
    ("eth3d", "da-v2-reconstructed"): lambda *given: blind.da_v2_reconstructed(*given, *blind.DA_V2["eth3d"]),
    ("eth3d", "midas"): lambda *given: blind.midas(*given, blind.MIDAS["eth3d"]),
    ("eth3d", "marigold"): lambda *given: blind.marigold(*given, *blind.MARIGOLD["eth3d"]),
    ("diode", "marigold"): lambda *given: blind.marigold(*given, *blind.MARIGOLD["diode"]),
    ("diode", "zoe-metric"): lambda *given: blind.zoe_metric(*given, *blind.ZOE["diode_indoor"]),
    ("ddad", "zoe-metric"): lambda *given: blind.zoe_metric(*given, *blind.ZOE["ddad"]),
    ("ibims", "lsq-disparity"): blind.lsq_disparity,
    ("ibims", "moge-disparity"): blind.moge_disparity,
    ("ibims", "zoe-metric"): lambda *given: blind.zoe_metric(*given, *blind.ZOE["ibims"]),
}
BENCH_SHAPES = {"nyu": (480, 640), "kitti": (375, 1242), "sintel": (109, 256), "eth3d": (170, 255), "ddad": (152, 242)}
# Protocol -> the second implementation, to be given bounds and crop of the first.
PLAIN = {
    "lsq-disparity": lambda p, *given: blind.lsq_disparity(*given, p.near, p.far),
    "da-v2-reconstructed": lambda p, *given: blind.da_v2_reconstructed(*given, p.near, p.far, CROP_NAMES[p.crop]),
    "midas": lambda p, *given: blind.midas(*given, p.far),
    "marigold": lambda p, *given: blind.marigold(*given, p.near, p.far, CROP_NAMES[p.crop]),
    "moge-disparity": lambda p, *given: blind.moge_disparity(*given),
    "moge-depth": lambda p, *given: blind.moge_depth(*given, True),
    "moge-scale": lambda p, *given: blind.moge_depth(*given, False),
    "zoe-metric": lambda p, *given: blind.zoe_metric(*given, p.near, p.far, CROP_NAMES[p.crop]),
    "v2-metric": lambda p, *given: blind.v2_metric(*given, p.far),
}


def truth_map(seed, shape, sparse=0.3, far=95.0):
    """Depth in blocks with noise, holes and sky; some beyond every cap."""
    rng = np.random.default_rng(seed)
    blocks = cv2.resize(
        np.exp(rng.uniform(np.log(0.3), np.log(far), (6, 9))), shape[::-1], interpolation=cv2.INTER_NEAREST
    )
    truth = (blocks * rng.uniform(0.97, 1.03, shape)).astype(np.float32)
    truth[rng.random(shape) < sparse] = np.nan
    truth[: shape[0] // 12] = np.inf
    return truth


def predictions(seed, truth, size=None):
    """Distortions of truth, dense: name -> (values, quantity, ambiguity); ``size`` is of the map if not of truth."""
    rng = np.random.default_rng(1000 + seed)
    dense = np.where(np.isfinite(truth), truth, np.nanmedian(np.where(np.isfinite(truth), truth, np.nan)))
    dense = dense.astype(np.float64)
    if size is not None:
        dense = cv2.resize(dense, size[::-1], interpolation=cv2.INTER_AREA)
    noisy = dense * np.exp(rng.normal(0, 0.15, dense.shape))
    sky = noisy.copy()
    sky[: max(1, dense.shape[0] // 15)] = np.inf
    found = {
        "relative disparity": (7 / noisy + 0.3 + rng.normal(0, 0.3, dense.shape), DISPARITY, AFFINE),
        "upside down": (-3 / noisy, DISPARITY, AFFINE),
        "scaled disparity": (0.2 / noisy, DISPARITY, SCALE),
        "metric disparity": (1 / noisy, DISPARITY, NONE),
        "metric depth": (noisy, DEPTH, NONE),
        "metric depth with sky": (sky, DEPTH, NONE),
        "scaled depth": (0.01 * noisy, DEPTH, SCALE),
        "relative depth": (0.3 * noisy + 5 + rng.normal(0, 0.5, dense.shape), DEPTH, AFFINE),
    }
    return {name: (np.asarray(values, np.float32), *meaning) for name, (values, *meaning) in found.items()}


def differences(protocol, given, truth, truth_ambiguity=NONE, metrics=PIXEL, second=None):
    """Return what the two disagree on: metric -> both values; "refused" if one alone gives no score.

    Args:
        second: the other implementation; None = `PLAIN`'s, with bounds and crop of the protocol.
    """
    values, quantity, ambiguity = given
    of = (values, quantity.value, ambiguity.value, truth)
    try:
        wanted = PLAIN[protocol.name](protocol, *of) if second is None else second(*of)
    except ValueError:
        wanted = None
    if wanted is not None and not all(np.isfinite(wanted[name]) for name in metrics):
        wanted = None
    try:
        got = score(
            DepthMap(values, quantity, ambiguity),
            DepthMap(truth, DEPTH, truth_ambiguity),
            replace(protocol, metrics=metrics),
        ).values
    except DatoolError as error:
        return {} if wanted is None else {"refused": error.problem}
    if wanted is None:
        return {"refused": "not by datool", "values": got}
    return {name: (got[name], wanted[name]) for name in got if not agree(got[name], wanted[name])}


def agree(got, wanted):
    """Tell whether two numbers are equal to a millionth."""
    return bool(np.isclose(got, wanted, rtol=1e-6, atol=1e-10))


# Protocols


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("seed", range(4))
def test_protocols_on_random_maps(name, seed):
    shape = SHAPES[seed % len(SHAPES)]
    for sparse in (0.0, 0.3, 0.9) if name != "moge-depth" else (0.9,):
        truth = truth_map(seed, shape, sparse)
        sizes = (None, (shape[0] * 3, shape[1] * 3), (round(shape[0] * 0.6), round(shape[1] * 0.6)))
        for size in sizes:
            for kind, given in predictions(seed, truth, size).items():
                if size is not None and kind == "metric depth with sky":
                    continue  # see the test of it below
                found = differences(PROTOCOLS[name], given, truth)
                assert not found, (kind, sparse, size)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("name", ["da-v2-reconstructed", "marigold", "zoe-metric"])
def test_crops_on_random_maps(crop, name):
    for seed, shape in enumerate(((480, 640), (370, 1226), (376, 1241))):
        truth = truth_map(seed, shape, 0.8)
        protocol = replace(PROTOCOLS[name], crop=crop)
        given = predictions(seed, truth)["metric depth" if name == "zoe-metric" else "relative disparity"]
        assert not differences(protocol, given, truth), shape
        if crop.startswith("kb") and shape[1] >= 1216:  # a map of the frame alone scores the same
            values, *meaning = given
            one = (np.ascontiguousarray(values[blind.benchmark_box(*shape)]), *meaning)
            whole, part = (score(DepthMap(*of), DepthMap(truth, DEPTH, NONE), protocol) for of in (given, one))
            assert part == whole


@pytest.mark.parametrize("bench, name", BENCHES)
def test_protocols_as_they_are_for_a_benchmark(bench, name):
    """Bounds, caps and crops are those of the second implementation's own tables."""
    truth = truth_map(3, BENCH_SHAPES.get(bench, (480, 640)), 0.6, 400 if bench == "diode" else 95)
    for kind, given in predictions(3, truth).items():
        assert not differences(protocol_for(bench, name), given, truth, second=BENCHES[bench, name]), kind


def test_every_protocol_that_a_benchmark_has_is_compared():
    """But for sets whose range the V2 paper does not tell."""
    every = {(bench, name) for bench, row in BENCHMARKS.items() for name in row.protocols if not row.pairs}
    assert every - set(BENCHES) == {("ddad", "da-v2-reconstructed"), ("diode", "da-v2-reconstructed")}
    assert set(PLAIN) == set(PROTOCOLS) - {"da-2k"}


def test_truth_a_thousand_times_the_nearest_percent_does_not_count_for_moge():
    truth = truth_map(2, SHAPES[2], 0.5)
    truth[5, ::7], truth[9, ::5] = 1.5e4, 299.0
    for name in ("moge-disparity", "moge-scale", "moge-depth"):
        for kind, given in predictions(2, truth_map(2, SHAPES[2], 0.5)).items():
            assert not differences(PROTOCOLS[name], given, truth), (name, kind)


def test_nothing_beyond_the_range_is_the_same_to_both():
    edge = np.array([0.001, 0.00099, 0.00101, 10, 20, 72, 80, np.nextafter(np.float32(80), np.float32(0))], np.float32)
    truth = np.tile(np.concatenate([edge, np.linspace(1, 9, 16, dtype=np.float32)]), (6, 1))
    given = (np.float32(2) / truth + np.linspace(0, 0.1, truth.size, dtype=np.float32).reshape(truth.shape)) ** 0.5
    for name in PLAIN:
        if name.startswith("moge-") and name != "moge-disparity":
            continue
        meaning = (1 / given, DEPTH, NONE) if "metric" in name else (given, DISPARITY, AFFINE)
        for far in (10.0, 72.0, 80.0):
            protocol = replace(PROTOCOLS[name], far=far) if name != "moge-disparity" else PROTOCOLS[name]
            assert not differences(protocol, meaning, truth), name


@pytest.mark.parametrize("name", PLAIN)
def test_what_cannot_be_scored_is_refused_by_both(name):
    truth = truth_map(0, SHAPES[0])
    nowhere, few = np.full_like(truth, np.nan), np.full_like(truth, np.nan)
    few[5, 5:14] = 3.0
    maps = predictions(0, truth)
    for kind, (values, *meaning) in maps.items():
        hole = values.copy()
        hole[np.isfinite(truth)] = np.nan
        spot = values.copy()
        spot[tuple(np.argwhere(np.isfinite(truth) & (truth > 1) & (truth < 9))[7])] = np.nan
        for pred, against in ((hole, truth), (spot, truth), (values, nowhere), (values, few)):
            protocol = PROTOCOLS[name]
            found = differences(protocol, (pred, *meaning), against)
            assert not found, kind
            with pytest.raises(DatoolError):
                score(DepthMap(pred, *meaning), DepthMap(against, DEPTH, NONE), protocol)


@pytest.mark.parametrize("name", ["lsq-disparity", "midas", "marigold", "moge-disparity", "zoe-metric", "v2-metric"])
def test_constant_maps_score_the_same(name):
    truth = truth_map(0, SHAPES[0])
    constant = np.full(truth.shape, 0.7, np.float32)
    meaning = (DEPTH, NONE) if "metric" in name else (DISPARITY, AFFINE)
    protocol = PROTOCOLS[name]
    assert not differences(protocol, (constant, *meaning), truth)


# Real images


def real_rows():
    return [json.loads(line) for line in (REAL / "manifest.jsonl").read_text().splitlines()] if REAL.exists() else []


def real_truth(row):
    """Return (H, W) float32 depth: NaN unknown, inf sky; known up to scale where the file holds stereo disparity."""
    pixels = cv2.imread(str(REAL / row["truth"]), cv2.IMREAD_UNCHANGED).astype(np.float64)
    values = np.where(pixels == row["invalid"], np.nan, pixels / row["divisor"])
    if row["infinite"] is not None:
        values[pixels == row["infinite"]] = np.inf
    if row["quantity"] == "disparity":
        return (10 / values).astype(np.float32), SCALE
    return values.astype(np.float32), NONE


@pytest.mark.skipif(not REAL.exists(), reason="the real images are not part of the project")
@pytest.mark.parametrize("row", real_rows(), ids=lambda row: row["name"])
def test_protocols_on_real_images(row):
    truth, ambiguity = real_truth(row)
    maps, half = predictions(0, truth), (truth.shape[0] // 2, truth.shape[1] // 2)
    smaller = predictions(1, truth, half)
    disparities = [maps["relative disparity"], smaller["relative disparity"]]
    depths = [maps["metric depth"], smaller["metric depth"]]
    if "published_disparity" in row:
        disparities[0] = (np.load(REAL / row["published_disparity"]).astype(np.float32), DISPARITY, AFFINE)
    for name in ("lsq-disparity", "da-v2-reconstructed", "midas", "moge-disparity", "marigold"):
        for given in disparities:
            assert not differences(PROTOCOLS[name], given, truth, ambiguity), name
    for given in (maps["relative depth"], *depths):
        assert not differences(PROTOCOLS["marigold"], given, truth, ambiguity)
    for name in ("moge-scale", "zoe-metric", "v2-metric") if ambiguity is NONE else ("moge-scale",):
        for given in depths:
            assert not differences(PROTOCOLS[name], given, truth, ambiguity), name


@pytest.mark.skipif(not REAL.exists(), reason="the real images are not part of the project")
@pytest.mark.parametrize(
    "name, abs_rel, delta1", [("kitti-71", 0.0805, 0.958), ("kitti-75", 0.0923, 0.892), ("nyu-room", 0.0241, 0.9992)]
)
def test_the_second_implementation_gives_the_reference_numbers(name, abs_rel, delta1):
    (row,) = [row for row in real_rows() if row["name"] == name]
    values = blind.lsq_disparity(np.load(REAL / row["published_disparity"]), "disparity", "", real_truth(row)[0])
    assert values["abs_rel"] == pytest.approx(abs_rel, abs=5e-5)
    assert values["delta1"] == pytest.approx(delta1, abs=5e-4)


# Alignments


def samples(seed, levels=None, num=60):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 6, num)
    pred = 0.4 * truth + 0.5 + rng.standard_t(2, num) * 0.2
    if levels:
        pred, truth = np.round(pred * levels) / levels + 0.1, np.ceil(truth * 2) / 2
    return pred, truth


@pytest.mark.parametrize("seed", range(8))
def test_alignments(seed):
    pred, truth = samples(seed)
    wanted = {
        "least-squares": blind.least_squares(pred, truth),
        "least-squares-or-zero": blind.midas_closed_form(pred, truth),
        "least-squares-positive": blind.least_squares(pred, truth),
        "scale": (blind.scale_least_squares(pred, truth), 0.0),
        "median": (blind.scale_median(pred, truth), 0.0),
        "l1": blind.affine_weighted_l1(pred, truth, 1 / truth),
        "l1-scale": (blind.scale_weighted_l1(pred, truth, 1 / truth), 0.0),
        "huber": blind.huber(pred, truth),
        "none": (1.0, 0.0),
    }
    assert set(wanted) == set(ALIGNMENTS)
    for name, pair in wanted.items():
        got = ALIGNMENTS[name].fit(pred, truth)
        assert agree(got[0], pair[0]) and agree(got[1], pair[1]), (name, got, pair)
    # Where the best scale is negative, the best one that is not is 0.
    scale, shift = ALIGNMENTS["least-squares-positive"].fit(-pred, truth)
    assert scale == 0 and agree(shift, truth.mean())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [None, 4])
def test_robust_fits_cost_as_little(seed, levels):
    """Ties leave several best lines, so it is the cost that has to agree."""
    pred, truth = samples(seed, levels, 30)

    def cost(scale, shift):
        return float(np.sum(np.abs(scale * pred + shift - truth) / truth))

    assert agree(cost(*ALIGNMENTS["l1"].fit(pred, truth)), cost(*blind.affine_weighted_l1(pred, truth, 1 / truth)))
    scale = blind.scale_weighted_l1(pred, truth, 1 / truth)
    assert agree(cost(*ALIGNMENTS["l1-scale"].fit(pred, truth)), cost(scale, 0.0))


@pytest.mark.parametrize("alignment, fit", [
    ("least-squares", blind.least_squares),
    ("scale", lambda p, y: (blind.scale_least_squares(p, y), 0.0)),
    ("median", lambda p, y: (blind.scale_median(p, y), 0.0)),
    ("l1-scale", lambda p, y: (blind.scale_weighted_l1(p, y, 1 / y), 0.0)),
    ("huber", blind.huber),
    ("none", lambda p, y: (1.0, 0.0)),
])  # fmt: skip
@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_alignments_of_whole_maps_in_both_spaces(alignment, fit, space):
    truth = truth_map(1, SHAPES[1])
    values = predictions(1, truth)["metric depth"][0]
    mask = np.isfinite(truth) & (truth > 1e-3) & (truth < 80)
    p, g = values[mask].astype(np.float64), truth[mask].astype(np.float64)
    if space == "disparity":
        scale, shift = fit(1 / p, 1 / g)
        depth = 1 / np.maximum(scale / p + shift, 0.01)
    else:
        scale, shift = fit(p, g)
        depth = np.clip(scale * p + shift, 1e-3, 80)
    fields = {"alignment": alignment, "space": space, "floor": "0.01" if space == "disparity" else "none"}
    clip = {"clip": "range"} if space == "depth" else {}
    protocol = override(PROTOCOLS["lsq-disparity"], fields | clip | {"metrics": ",".join(PIXEL)})
    got = score(DepthMap(values, DEPTH, NONE), DepthMap(truth, DEPTH, NONE), protocol)
    wanted = blind.all_metrics(depth, g)
    assert agree(got.scale, scale) and agree(got.shift, shift) and got.weight == mask.sum()
    assert all(agree(got.values[name], wanted[name]) for name in PIXEL)


# Resizing and thinning


@pytest.mark.parametrize("how", ["centres", "corners"])
@pytest.mark.parametrize("shape", [(7, 9), (3, 4), (1, 1), (10, 3), (4, 5), (12, 15)])
def test_resizing(how, shape):
    values = np.random.default_rng(0).random((4, 5))
    np.testing.assert_allclose(
        resize_bilinear(values, shape, how), blind.bilinear(values, shape, how == "corners"), atol=1e-12
    )


def test_one_pixel_of_each_field():
    mask = np.random.default_rng(0).random((150, 210)) < 0.2
    np.testing.assert_array_equal(one_a_cell(mask, 64), blind._one_a_field(mask, 64))


# Metrics


@pytest.mark.parametrize("seed", range(4))
def test_pixel_metrics(seed):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 80, 5000)
    pred = truth * np.exp(rng.normal(0, 0.3, truth.shape))
    wanted = blind.all_metrics(pred, truth)
    assert set(PIXEL) == set(wanted)
    assert all(agree(METRICS[name].compute(pred, truth), wanted[name]) for name in PIXEL)


@pytest.mark.parametrize("seed", range(4))
def test_boundaries(seed):
    truth = truth_map(seed, SHAPES[seed % 3], 0.1)
    pred = predictions(seed, truth)["metric depth"][0].astype(np.float64)
    valid = np.isfinite(truth)
    wanted = blind.boundary_f1(1 / pred, 1 / truth.astype(np.float64), valid)
    assert wanted > 0.05 and agree(boundary_f1(pred, truth.astype(np.float64), valid), wanted)
    for name in ("zoe-metric", "v2-metric"):
        protocol = replace(PROTOCOLS[name], far=1000.0, metrics=("boundary_f1",))
        given = (pred.astype(np.float32), DEPTH, NONE)
        assert not differences(protocol, given, truth, metrics=("boundary_f1",))


def test_whdr():
    rng = np.random.default_rng(0)
    depth = np.round(rng.uniform(1, 4, (9, 9)), 1)
    points = rng.integers(0, 9, (50, 4))
    weights = rng.uniform(0, 1, 50)
    pairs = [((a, b), (c, d), w) for (a, b, c, d), w in zip(points.tolist(), weights, strict=True)]
    nearer, farther = 1 / depth[points[:, 0], points[:, 1]], 1 / depth[points[:, 2], points[:, 3]]
    assert agree(whdr(nearer, farther, weights), blind.whdr(depth, pairs))


def test_averages():
    rng = np.random.default_rng(0)
    values = [{name: float(rng.uniform()) for name in PIXEL} for _ in range(7)]
    weights = rng.integers(10, 1000, 7).tolist()
    rows = [ImageRow("b", str(i), weight=w, values=v) for i, (v, w) in enumerate(zip(values, weights, strict=True))]
    for average, wanted in (("image", blind.image_mean(values)), ("pooled", blind.pixel_mean(values, weights))):
        got = averaged(rows, replace(PROTOCOLS["lsq-disparity"], average=average, metrics=PIXEL))
        assert all(agree(got[name], wanted[name]) for name in PIXEL), average


# Pairs of points


@pytest.mark.parametrize("quantity", [DISPARITY, DEPTH])
def test_pairs_of_da2k(tmp_path, quantity):
    rng = np.random.default_rng(0)
    annotations, maps = {}, {}
    for number in range(12):
        path = f"images/{('indoor', 'aerial', 'object')[number % 3]}/{number}.jpg"
        height, width = (int(side) for side in rng.integers(40, 90, 2))
        annotations[path] = [
            {
                "point1": [int(rng.integers(height)), int(rng.integers(width))],
                "point2": [int(rng.integers(height)), int(rng.integers(width))],
                "closer_point": "point1" if rng.random() < 0.8 else "point2",
            }
            for _ in range(rng.integers(1, 6))
        ]
        scale = (1, 0.5, 2)[number % 3 if number < 9 else 0]
        values = rng.uniform(1, 5, (round(height * scale), round(width * scale))).astype(np.float32)
        values = np.round(values) if number == 9 else values  # ties
        maps[path] = (values, quantity.value, (height, width))
    wanted = blind.da2k(annotations, maps)
    (tmp_path / "DA-2K").mkdir()
    (tmp_path / "DA-2K" / "annotations.json").write_text(json.dumps(annotations))
    protocol, rows = PROTOCOLS["da-2k"], []
    for path, pairs in read_pairs(tmp_path).items():
        values, _, size = maps[path]
        nearer, farther = (np.array([getattr(pair, side) for pair in pairs]) for side in ("nearer", "farther"))
        got = score_pairs(DepthMap(values, quantity, AFFINE), nearer, farther, size, protocol)
        rows.append(ImageRow("da2k", path, group=path.split("/")[1], weight=got.weight, values=got.values))
    pooled = averaged(rows, protocol)
    assert agree(pooled["accuracy"], wanted["pooled"]) and agree(pooled["whdr"], 1 - wanted["pooled"])
    for scene, share in wanted["scenes"].items():
        assert agree(averaged([row for row in rows if row.group == scene], protocol)["accuracy"], share)


# Where the two differ. Each says what decides; take the mark away when datool follows.


def test_marigold_fits_relative_depth_below_0_too():
    truth = truth_map(0, SHAPES[1])
    values, *meaning = predictions(0, truth)["relative depth"]
    given = (values - np.float32(10), *meaning)
    assert not differences(PROTOCOLS["marigold"], given, truth)


def test_marigold_thins_by_its_factor():
    everywhere = np.ones((1100, 1700), bool)
    rows, columns = (blind._subsample(side, 1700, 1024) for side in everywhere.shape)
    wanted = np.zeros_like(everywhere)
    wanted[np.ix_(rows, columns)] = True
    np.testing.assert_array_equal(thinned(everywhere, 1024), wanted)


def test_da_v2_reconstructed_treats_a_constant_map_as_midas_does():
    truth = truth_map(0, SHAPES[0])
    given = (np.full(truth.shape, 0.7, np.float32), DISPARITY, AFFINE)
    name = "da-v2-reconstructed"
    assert not differences(PROTOCOLS[name], given, truth)


def test_da_v2_reconstructed_clips_from_above_alone():
    truth = np.tile(np.geomspace(0.00101, 0.0016, 40, dtype=np.float32), (5, 1))
    values = 1 / truth + np.random.default_rng(0).normal(0, 60, truth.shape).astype(np.float32)
    assert not differences(PROTOCOLS["da-v2-reconstructed"], (values, DISPARITY, AFFINE), truth)


@pytest.mark.parametrize("name", ["moge-disparity", "lsq-disparity", "da-v2-reconstructed", "midas", "marigold"])
def test_boundaries_are_of_the_map_before_its_floor(name):
    truth = truth_map(0, SHAPES[1], 0.05)
    given = predictions(0, truth)["relative disparity"]
    protocol = PROTOCOLS[name]
    assert not differences(protocol, given, truth, metrics=("boundary_f1",))


def test_predicted_sky_survives_resizing():
    truth = truth_map(0, SHAPES[1], 0.0)
    size = (SHAPES[1][0] * 3, SHAPES[1][1] * 3)
    values, *meaning = predictions(0, truth, size)["metric depth"]
    values[:40] = np.inf
    for name in ("zoe-metric", "lsq-disparity"):
        given = (values, *meaning)
        assert not differences(PROTOCOLS[name], given, truth), name
