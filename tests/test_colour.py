"""Laws of the pictures: nearer is warmer, nothing breaks, unknown is black."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datool.colour import COLOUR_MAPS, side_by_side, to_picture
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError

MEANINGS = [(quantity, ambiguity) for quantity in Quantity for ambiguity in Ambiguity]


def ramp(quantity: Quantity, ambiguity: Ambiguity) -> DepthMap:
    """A map that is far on the left and near on the right."""
    disparity = np.linspace(0.5, 4, 64, dtype=np.float32)[None].repeat(3, 0)
    return DepthMap(disparity if quantity is Quantity.DISPARITY else 1 / disparity, quantity, ambiguity)


@pytest.mark.parametrize(("quantity", "ambiguity"), MEANINGS)
def test_near_is_white_in_grey_and_red_in_colour(quantity: Quantity, ambiguity: Ambiguity) -> None:
    depth = ramp(quantity, ambiguity)
    grey = to_picture(depth, "grey")[0, :, 0].astype(int)
    assert grey[0] == 0
    assert grey[-1] == 255
    assert (np.diff(grey) >= 0).all()
    colour = to_picture(depth)[0]
    assert colour[-1, 0] > colour[-1, 2], "near is warm"
    assert colour[0, 2] > colour[0, 0], "far is cold"


def test_depth_and_its_disparity_look_the_same() -> None:
    depth = ramp(Quantity.DEPTH, Ambiguity.SCALE)
    for cmap in COLOUR_MAPS:
        difference = to_picture(depth, cmap).astype(int) - to_picture(depth.to(Quantity.DISPARITY), cmap)
        assert np.abs(difference).max() <= 8


@pytest.mark.parametrize("cmap", COLOUR_MAPS)
def test_scale_and_shift_change_nothing(cmap: str) -> None:
    depth = ramp(Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    moved = DepthMap(depth.values * 8 - 32, depth.quantity, depth.ambiguity)
    assert np.array_equal(to_picture(depth, cmap), to_picture(moved, cmap))


def test_unknown_is_black_and_sky_is_the_far_end() -> None:
    depth = DepthMap(np.array([[1, 2, np.nan, np.inf]], np.float32), Quantity.DEPTH, Ambiguity.NONE)
    picture = to_picture(depth)
    assert picture[0, 2].tolist() == [0, 0, 0]
    assert picture[0, 3].tolist() == picture[0, 1].tolist() == [94, 79, 162]
    assert picture[0, 0].tolist() == [158, 1, 66]


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0, 1e-45, 3e38])
def test_one_value_is_a_picture(value: float) -> None:
    depth = DepthMap(np.full((4, 5), value, np.float32), Quantity.DEPTH, Ambiguity.SCALE)
    for cmap in COLOUR_MAPS:
        picture = to_picture(depth, cmap)
        assert picture.shape == (4, 5, 3)
        assert picture.dtype == np.uint8
        assert (picture == picture[0, 0]).all()


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(allow_infinity=False, width=32))
)
def test_any_map_has_a_picture_and_uses_the_whole_range(values: np.ndarray) -> None:
    depth = DepthMap(values, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    grey = to_picture(depth, "grey")[:, :, 0]
    known = values[depth.valid]
    if known.size and known.min() < known.max():
        assert (grey[values == known.max()] == 255).all()
        assert (grey[values == known.min()] == 0).all()
    assert (grey[~depth.valid] == 0).all()


def test_the_input_is_left_alone() -> None:
    depth = ramp(Quantity.DEPTH, Ambiguity.SCALE_AND_SHIFT)
    before = depth.values.copy()
    to_picture(depth)
    assert np.array_equal(depth.values, before)


def test_side_by_side_keeps_both() -> None:
    image, picture = np.full((4, 6, 3), 10, np.uint8), np.full((4, 6, 3), 200, np.uint8)
    both = side_by_side(image, picture, gap_px=3)
    assert both.shape == (4, 15, 3)
    assert (both[:, :6] == 10).all()
    assert (both[:, 6:9] == 255).all()
    assert (both[:, 9:] == 200).all()
    with pytest.raises(DatoolError, match=r"\(4, 6, 3\) beside \(4, 5, 3\)"):
        side_by_side(image, picture[:, :5])


def test_unknown_colour_map_is_named() -> None:
    with pytest.raises(DatoolError, match="Did you mean 'turbo'"):
        to_picture(ramp(Quantity.DEPTH, Ambiguity.NONE), "turbos")
