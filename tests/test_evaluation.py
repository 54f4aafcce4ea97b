"""Alignments, metrics and protocols: laws and values by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.evaluation.alignment import (
    ALIGNMENTS,
    BLOCK,
    fit_huber,
    fit_l1,
    fit_medians,
    fit_scale,
    fit_scale_l1,
)
from datool.evaluation.benchmarks import BENCHMARKS, DA2K_SHARES, DA2K_TABLE_14, protocol_for
from datool.evaluation.metrics import METRICS, PixelMetric, boundary_f1, measure, whdr
from datool.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    UnscoredError,
    override,
    score,
    score_pairs,
)
from datool.evaluation.selection import gathered, one_a_cell, open_range

AFFINE = Ambiguity.SCALE_AND_SHIFT


def as_map(values, quantity=Quantity.DISPARITY, ambiguity=AFFINE):
    return DepthMap(np.asarray(values, np.float32), quantity, ambiguity)


def metres(values):
    return as_map(values, Quantity.DEPTH, Ambiguity.NONE)


def scene(seed, height=40, width=60):
    """Truth with holes and sky, and a disparity of it with noise that crosses 0."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 90, (height, width)).astype(np.float32)
    pred = (3 / truth + 0.2 + rng.normal(0, 0.3, truth.shape)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    truth[:2] = np.inf
    return pred, truth


def check(got, wanted, tolerance=1e-6):
    for name, value in got.items():
        assert value == pytest.approx(wanted[name], abs=tolerance, rel=tolerance), name


# Alignments


@given(st.floats(1e-3, 1e3), st.floats(-50, 50), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_affine_alignments_recover_a_known_scale_and_shift(scale, shift, seed):
    pred = np.random.default_rng(seed).uniform(0, 1, 200)
    truth = scale * pred + shift
    if truth.min() <= scale * 1e-3:
        truth = truth - truth.min() + scale  # depths are above 0
    for name in ("least-squares", "least-squares-or-zero", "l1", "huber"):
        got_scale, got_shift = ALIGNMENTS[name].fit(pred, truth)
        assert np.allclose(got_scale * pred + got_shift, truth, rtol=1e-9), name


@given(st.floats(1e-3, 1e3), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_scales_are_recovered(scale, seed):
    pred = np.random.default_rng(seed).uniform(0.1, 1, 200)
    for fit in (fit_scale, fit_medians, fit_scale_l1):
        assert fit(pred, scale * pred) == (pytest.approx(scale, rel=1e-9), 0)


def test_robust_alignments_resist_a_fifth_of_nonsense():
    rng = np.random.default_rng(0)
    pred = rng.uniform(0, 1, 500)
    truth = 2 * pred + 1
    truth[:100] = 50
    assert fit_l1(pred, truth) == (pytest.approx(2), pytest.approx(1))
    assert fit_huber(pred, truth)[0] == pytest.approx(2, rel=0.05)
    assert abs(ALIGNMENTS["least-squares"].fit(pred, truth)[1] - 1) > 5


def test_scale_alone_by_hand():
    pred, truth = np.array([1.0, 2.0] * 5), np.array([2.0, 6.0] * 5)
    assert fit_scale(pred, truth)[0] == pytest.approx(14 / 5)
    assert fit_medians(pred, truth)[0] == pytest.approx(4 / 1.5)
    assert fit_scale_l1(pred, truth)[0] == 2  # weights |pred| / truth are 1/2 and 1/3


# Metrics


def test_metrics_by_hand():
    pred, truth = np.array([2.0, 1.0, 4.0, 5.0]), np.array([1.0, 1.0, 5.0, 4.0])
    expected = {
        "abs_rel": (1 + 0 + 0.2 + 0.25) / 4,
        "sq_rel": (1 + 0 + 0.2 + 0.25) / 4,
        "rmse": np.sqrt(3 / 4),
        "rmse_log": np.sqrt((np.log(2) ** 2 + 2 * np.log(1.25) ** 2) / 4),
        "log10": (np.log10(2) + 2 * np.log10(1.25)) / 4,
        "i_rmse": np.sqrt((0.25 + 2 * 0.05**2) / 4),
        "delta1": 1 / 4,  # a ratio of 1.25 itself does not count
        "delta2": 3 / 4,
        "delta3": 3 / 4,
        "bad_pixels": 25,
    }
    mean_d = np.log(2) / 4
    mean_d2 = expected["rmse_log"] ** 2
    expected["silog"] = 100 * np.sqrt(mean_d2 - mean_d**2)
    expected["silog_half"] = np.sqrt(mean_d2 - 0.5 * mean_d**2)
    for name, value in expected.items():
        assert METRICS[name].compute(pred, truth) == pytest.approx(value, rel=1e-12), name


def test_a_perfect_map_scores_perfect_in_every_metric():
    truth = np.random.default_rng(0).uniform(1, 50, (20, 30))
    for name, metric in METRICS.items():
        if metric.on == "pairs":
            continue
        given_arrays = (truth.ravel(), truth.ravel()) if metric.on == "pixels" else (truth, truth, truth > 0)
        assert metric.compute(*given_arrays) == (1 if metric.higher_is_better else 0), name


def test_silog_does_not_see_scale():
    rng = np.random.default_rng(0)
    pred, truth = rng.uniform(1, 9, 100), rng.uniform(1, 9, 100)
    assert METRICS["silog"].compute(7 * pred, truth) == pytest.approx(METRICS["silog"].compute(pred, truth), rel=1e-12)


def test_whdr_counts_ties_and_unknown_as_wrong():
    nearer, farther = np.array([2.0, 1, 1, np.nan]), np.array([1.0, 1, 2, 0])
    assert whdr(nearer, farther) == 3 / 4
    assert whdr(nearer, farther, np.array([3.0, 1, 1, 1])) == 3 / 6


def test_boundary_f1_ignores_scale_and_masked_pixels():
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.uniform(1, 2, (5, 6)), 2, axis=0)
    pred = truth * rng.uniform(0.95, 1.05, truth.shape)
    valid = rng.random(truth.shape) < 0.8
    expected = boundary_f1(pred, truth, valid)
    assert 0 < expected < 1
    assert boundary_f1(7 * pred, truth, valid) == pytest.approx(expected, rel=1e-9)
    pred[~valid], truth[~valid] = 0, np.nan
    assert boundary_f1(pred, truth, valid) == pytest.approx(expected, rel=1e-9)


def test_values_do_not_depend_on_the_blocks_in_which_they_are_summed():
    rng = np.random.default_rng(0)
    pred, truth = rng.uniform(1, 9, 2 * BLOCK + 17), rng.uniform(1, 9, 2 * BLOCK + 17)
    metrics = [metric for metric in METRICS.values() if isinstance(metric, PixelMetric)]
    whole = measure(metrics, [(pred, truth)])
    parts = [(pred[at : at + 1000], truth[at : at + 1000]) for at in range(0, len(pred), 1000)]
    assert measure(metrics, parts) == pytest.approx(whole, rel=1e-12)
    assert measure(metrics, [(7 * truth, truth)])[list(METRICS).index("silog")] == pytest.approx(0, abs=1e-9)


# Which pixels count


@given(st.floats(0, 10), st.floats(10.5, 1e6) | st.just(float("inf")), st.booleans())
@settings(deadline=None)
def test_a_range_of_float32_is_that_of_float64(near, far, closed):
    low, high = open_range(near, far, closed)
    ends = [np.float32(near), np.float32(min(far, 3e38))]
    values = np.array([np.nextafter(end, np.float32(to)) for end in ends for to in (0, np.inf)] + ends, np.float32)
    double = values.astype(np.float64)
    wanted = (double >= near) & (double <= far) if closed else (double > near) & (double < far)
    np.testing.assert_array_equal((values >= low) & (values <= high), wanted & np.isfinite(values))


@pytest.mark.parametrize("share", [0, 0.2, 0.999, 1])
def test_gathering_is_indexing_with_the_mask(share):
    rng = np.random.default_rng(0)
    whole = rng.random((150, 200)).astype(np.float32)
    one, two = whole[3:140, 5:190], whole[5:142, 9:194].astype(np.float64)
    valid = rng.random(one.shape) < share
    for got, wanted in zip(gathered(valid, one, two), (one[valid], two[valid]), strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype


def test_one_pixel_a_field_is_the_one_nearest_to_its_middle():
    valid = np.random.default_rng(0).random((40, 60)) < 0.3
    taken = one_a_cell(valid, 4)
    assert not (taken & ~valid).any()
    rows, columns = np.mgrid[:40, :60] + 0.5
    for top in range(0, 40, 10):
        for left in range(0, 60, 15):
            field = (slice(top, top + 10), slice(left, left + 15))
            distance = np.hypot(rows[field] - top - 5, columns[field] - left - 7.5)
            assert taken[field].sum() == 1
            assert distance[taken[field]][0] == distance[valid[field]].min()
    assert one_a_cell(valid, 64).sum() == valid.sum()


# Laws of the protocols


@given(st.floats(0.01, 100), st.floats(-5, 5), st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_scores_do_not_see_scale_and_shift_of_a_relative_map(scale, shift, seed):
    # Powers of two and whole numbers, so that float32 maps hold both exactly.
    scale, shift = 2.0 ** round(np.log2(scale)), float(round(shift))
    rng = np.random.default_rng(seed)
    pred = rng.integers(1, 1000, (20, 30)).astype(np.float32)
    truth = metres(rng.uniform(1, 50, pred.shape))
    for name in ("lsq-disparity", "da-v2-reconstructed", "midas", "moge-disparity"):
        one = score(as_map(pred), truth, PROTOCOLS[name]).values
        other = score(as_map(scale * pred + shift), truth, PROTOCOLS[name]).values
        check(one, other, 1e-9)


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "da-2k"])
def test_a_perfect_map_scores_perfect_in_every_protocol(name):
    truth = np.float32(2) ** np.random.default_rng(0).integers(0, 4, (20, 30))
    protocol = PROTOCOLS[name]
    if ALIGNMENTS[protocol.alignment].removes is AFFINE:
        pred = as_map(5 * truth + 1, Quantity.DEPTH) if protocol.space == "depth" else as_map(5 / truth + 1)
    else:
        pred = metres(truth)
    values = score(pred, metres(truth), protocol).values
    check(values, {metric: float(METRICS[metric].higher_is_better) for metric in values}, 1e-6)


def test_what_is_strange_is_flagged_and_what_is_impossible_is_named():
    pred, truth = scene(0)
    protocol = PROTOCOLS["lsq-disparity"]
    assert score(as_map(np.ones_like(pred)), metres(truth), protocol).flags == ("constant", "scale-zero")
    assert "scale-negative" in score(as_map(-pred), metres(truth), protocol).flags
    assert score(as_map(pred[::2, ::2]), metres(truth), protocol).flags == ("resized",)
    broken = pred.copy()
    broken[np.isfinite(truth)] = np.nan
    for kind, of, against, how in (
        ("prediction-nan", as_map(broken), truth, protocol),
        ("prediction-size", as_map(pred[:, :30]), truth, protocol),
        ("truth-empty", as_map(pred), np.full_like(truth, np.nan), protocol),
        ("prediction-meaning", as_map(pred), truth, PROTOCOLS["v2-metric"]),
        ("prediction-meaning", as_map(pred, Quantity.DEPTH), truth, protocol),
        ("not-positive", as_map(pred), truth, replace(protocol, floor="none")),
    ):
        with pytest.raises(UnscoredError) as caught:
            score(of, metres(against), how)
        assert caught.value.kind == kind


def test_a_changed_field_is_typed_named_and_hashed():
    one = PROTOCOLS["lsq-disparity"]
    other = override(one, {"far": "10", "metrics": "abs_rel,delta1", "closed": "true"})
    assert (other.far, other.metrics, other.closed) == (10.0, ("abs_rel", "delta1"), True)
    assert "far=10" in other.name and other.sha256 != one.sha256
    assert override(one, {}) == one and replace(one, name="x").sha256 == one.sha256
    assert override(one, {"far": "80"}).sha256 == one.sha256
    json.dumps(PROTOCOLS["moge-disparity"].describe(), allow_nan=False)
    for bad, words in (
        ({"faar": "1"}, "Did you mean 'far'"),
        ({"far": "x"}, "expected float"),
        ({"far": "0"}, "no range"),
        ({"crop": "grag"}, "Did you mean 'garg'"),
        ({"floor": "low"}, "unknown floor"),
        ({"metrics": "abs"}, "unknown metric"),
    ):
        with pytest.raises(DatoolError, match=words):
            override(one, bad)


def test_every_benchmark_has_its_protocols():
    for bench, row in BENCHMARKS.items():
        for name in row.protocols:
            protocol = protocol_for(bench, name)
            assert protocol.name == name and len(protocol.sha256) == 12
        for table in row.published:
            assert table.protocol in PROTOCOLS and table.why
            assert all(metric in METRICS for values in table.values.values() for metric in values)
    assert protocol_for("ddad", "midas").name == "midas+general"
    assert isinstance(protocol_for("kitti"), Protocol) and protocol_for("kitti").crop == "garg"


# Pairs of points


def test_a_nearer_point_needs_strictly_larger_disparity_or_strictly_smaller_depth():
    nearer, farther = np.array([[0, 1], [2, 0], [0, 0]]), np.array([[1, 0], [0, 1], [2, 2]])
    values = np.arange(9, dtype=np.float32).reshape(3, 3) + 1
    protocol, size = PROTOCOLS["da-2k"], (3, 3)
    got = score_pairs(as_map(values), nearer, farther, size, protocol)
    assert got.values["accuracy"] == 1 / 3 and got.weight == 3
    assert score_pairs(metres(values), nearer, farther, size, protocol).values["accuracy"] == 2 / 3
    constant = score_pairs(as_map(np.ones((3, 3))), nearer, farther, size, protocol)
    assert constant.values == {"accuracy": 0, "whdr": 1} and constant.flags == ("constant", "tie")
    unknown = values.copy()
    unknown[2, 0] = np.nan
    got = score_pairs(as_map(unknown), nearer, farther, size, protocol)
    assert got.values["accuracy"] == 0 and "unknown-point" in got.flags
    with pytest.raises(UnscoredError, match="outside"):
        score_pairs(as_map(values), nearer + 1, farther, size, protocol)


@pytest.mark.parametrize("model, printed", [("v2-small", 95.3), ("v2-large", 97.1)])
def test_the_papers_mean_of_da2k_is_pooled(model, printed):
    by_kind = dict(zip(DA2K_SHARES, DA2K_TABLE_14[model], strict=True))
    pooled = np.average([by_kind[kind] for kind in DA2K_SHARES], weights=list(DA2K_SHARES.values()))
    assert round(float(pooled), 1) == printed
    assert round(float(np.mean(list(by_kind.values()))), 1) != printed
    assert BENCHMARKS["da2k"].published[0].values[model]["accuracy"] == pytest.approx(printed / 100)
