"""Laws of targets: what a model learns to give, for labels of every kind."""

import numpy as np
import pytest
import torch

from datool.data.batches.transforms import (
    TARGETS,
    disparity_target,
    metric_target,
    minmax_target,
    plain_disparity_target,
)
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError

NAN, SKY, INF = np.nan, np.inf, float("inf")
METRES = DepthMap(np.array([[2.0, 4.0, NAN], [SKY, 100.0, 1.0]], np.float32), Quantity.DEPTH, Ambiguity.NONE)


def test_min_max_has_the_nearest_at_1_and_the_sky_at_0():
    expected = [[0.5, 0.25, NAN], [0.0, 0.01, 1.0]]
    np.testing.assert_allclose(minmax_target(METRES, INF), expected, atol=1e-7)


def test_without_sky_the_farthest_is_at_0():
    depth = DepthMap(np.array([[1.0, 2.0, 4.0]], np.float32), Quantity.DEPTH, Ambiguity.SCALE)
    np.testing.assert_allclose(minmax_target(depth, INF), [[1.0, 1 / 3, 0.0]], atol=1e-7)


def test_one_map_and_a_batch_of_them_give_the_same():
    depth = np.random.default_rng(0).uniform(0.5, 80, (3, 9, 12)).astype(np.float32)
    depth[0, :2], depth[1, 3:], depth[2, 0, 0] = NAN, SKY, NAN
    target, valid = disparity_target(torch.from_numpy(depth))
    for single, row, known in zip(depth, target.numpy(), valid.numpy(), strict=True):
        own = minmax_target(DepthMap(single, Quantity.DEPTH, Ambiguity.NONE), INF)
        np.testing.assert_allclose(np.nan_to_num(own), row, atol=1e-6)
        assert np.array_equal(~np.isnan(own), known)


def test_a_model_s_disparity_only_changes_its_range():
    values = np.array([[-3.0, 7.0, NAN, 2.0]], np.float32)
    label = DepthMap(values, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    np.testing.assert_allclose(minmax_target(label, INF), [[0.0, 1.0, NAN, 0.5]])
    np.testing.assert_array_equal(plain_disparity_target(label, INF), values)
    moved = DepthMap(values * 5 + 2, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    np.testing.assert_allclose(minmax_target(moved, INF), minmax_target(label, INF), atol=1e-6)


@pytest.mark.parametrize("values", [[[3.0, 3.0, NAN]], [[NAN, NAN, NAN]], [[SKY, SKY, NAN]]])
def test_constant_and_empty_maps_give_zeros_and_unknown(values):
    found = minmax_target(DepthMap(np.array(values, np.float32), Quantity.DEPTH, Ambiguity.NONE), INF)
    np.testing.assert_array_equal(found, np.where(np.isnan(values), NAN, 0.0))


def test_disparity_keeps_its_scale():
    expected = [[0.5, 0.25, NAN], [0.0, 0.01, 1.0]]
    np.testing.assert_allclose(plain_disparity_target(METRES, INF), expected, atol=1e-7)


def test_metres_leave_out_sky_and_what_is_too_far():
    np.testing.assert_array_equal(metric_target(METRES, 80.0), [[2.0, 4.0, NAN], [NAN, NAN, 1.0]])
    np.testing.assert_array_equal(metric_target(METRES, INF), [[2.0, 4.0, NAN], [NAN, 100.0, 1.0]])
    inverse = METRES.to(Quantity.DISPARITY)
    np.testing.assert_allclose(metric_target(inverse, 80.0), metric_target(METRES, 80.0), rtol=1e-6)


def test_labels_that_cannot_be_the_target_are_refused():
    for ambiguity in (Ambiguity.SCALE, Ambiguity.SCALE_AND_SHIFT):
        with pytest.raises(DatoolError, match="expected metres"):
            metric_target(DepthMap(METRES.values[:1, :2], Quantity.DEPTH, ambiguity), INF)
    for target in (minmax_target, plain_disparity_target):
        with pytest.raises(DatoolError, match="cannot turn depth"):
            target(DepthMap(METRES.values[:1], Quantity.DEPTH, Ambiguity.SCALE_AND_SHIFT), INF)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target_is_a_float_map_of_the_same_size(name):
    found = TARGETS[name](METRES, 80.0)
    assert found.shape == METRES.shape and found.dtype == np.float32
