"""Laws of DepthMap and Camera."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError, lookup

DEPTHS = arrays(np.float32, (4, 5), elements=st.floats(2**-10, 2**10, width=32))


@given(DEPTHS, st.sampled_from([Ambiguity.NONE, Ambiguity.SCALE]))
def test_depth_to_disparity_and_back_is_the_same(values, ambiguity):
    values[0, 0], values[1, 1] = np.nan, np.inf
    there = DepthMap(values, Quantity.DEPTH, ambiguity).to(Quantity.DISPARITY)
    assert np.isnan(there.values[0, 0]) and there.values[1, 1] == 0 and there.ambiguity is ambiguity
    np.testing.assert_allclose(there.to(Quantity.DEPTH).values, values, rtol=1e-6)


def test_an_unknown_shift_forbids_inversion_and_says_what_to_do():
    relative = DepthMap(np.ones((2, 2), np.float32), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    with pytest.raises(DatoolError, match=r"scale and shift.*Align"):
        relative.to(Quantity.DEPTH)


@pytest.mark.parametrize(
    "values, quantity, ambiguity",
    [
        (np.ones((2, 2)), "depth", "none"),
        (np.ones((2, 2, 1), np.float32), "depth", "none"),
        (np.ones((0, 2), np.float32), "depth", "none"),
        (np.zeros((2, 2), np.float32), "depth", "none"),
        (np.full((2, 2), -1, np.float32), "disparity", "scale"),
        (np.full((2, 2), np.inf, np.float32), "disparity", "none"),
        (np.full((2, 2), np.inf, np.float32), "disparity", "scale-and-shift"),
        ([[1.0]], "depth", "none"),
    ],
)
def test_values_that_the_quantity_does_not_allow_are_refused(values, quantity, ambiguity):
    with pytest.raises(DatoolError):
        DepthMap(values, quantity, ambiguity)


def test_a_resized_camera_sees_the_same_directions():
    camera = Camera(500, 510, 320.5, 239.5, 480, 640)
    small = camera.resized(120, 320)
    assert (100 - camera.cx_px) / camera.fx_px == pytest.approx((50 - small.cx_px) / small.fx_px)
    assert (100 - camera.cy_px) / camera.fy_px == pytest.approx((25 - small.cy_px) / small.fy_px)


def test_lookup_names_the_nearest():
    with pytest.raises(DatoolError, match=r"unknown model 'tinny'. Did you mean 'tiny'\? Known: nano, tiny"):
        lookup({"tiny": 1, "nano": 2}, "tinny", "model")
