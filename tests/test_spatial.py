"""Laws of cutting: a crop never pads, and a map is cut where its picture is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datool.data.batches.crops import NUM_BOX_DRAWS, NUM_CROP_DRAWS, Crop, cutmix_box, random_crop

SIDES = st.integers(1, 90)
DRAWS = st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3).map(np.array)


def ramp(height: int, width: int) -> np.ndarray:
    """A picture whose red tells the column and whose green tells the row, in percent."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 100 * (columns + 0.5) / width, 100 * (rows + 0.5) / height
    return np.stack([red, green, np.zeros((height, width))], axis=2).round().astype(np.uint8)


@given(SIDES, SIDES, SIDES, SIDES, DRAWS)
@settings(deadline=None)
def test_a_crop_never_pads_and_keeps_the_aspect(height, width, rows, columns, draws):
    crop = random_crop((height, width, 3), (rows, columns), 0.5, draws)
    top, bottom, left, right = crop.box
    assert top >= 0 and bottom <= crop.resized[0] and left >= 0 and right <= crop.resized[1]
    assert (bottom - top, right - left) == (rows, columns)
    assert crop.resized[0] == rows or crop.resized[1] == columns, "it just covers"
    scale = max(rows / height, columns / width)
    assert all(abs(got - side * scale) <= 0.5 + 1e-9 for got, side in zip(crop.resized, (height, width), strict=True))
    assert crop.image(ramp(height, width)).shape == (rows, columns, 3)
    assert crop.nearest(np.zeros((height, width), bool)).shape == (rows, columns)


def test_the_published_size():
    crop = random_crop((480, 640, 3), (518, 518), 0.0, np.array([0.5, 0.5, 0.5]))
    assert crop == Crop((518, 691), (0, 518, 87, 605), False)
    assert random_crop((640, 480, 3), (518, 518), 0.0, np.array([0.0, 0.0, 0.5])).box == (0, 518, 0, 518)


def test_every_place_is_reached_and_as_likely():
    draws = np.linspace(0, 1, 1000, endpoint=False)
    tops = [random_crop((20, 10), (10, 10), 0.5, np.array([draw, 0, 0])).box[0] for draw in draws]
    assert np.bincount(tops).tolist() == pytest.approx([1000 / 11] * 11, abs=1)


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (9, 7), (300, 100), (28, 28)])
@pytest.mark.parametrize("stored", [1, 3])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_map_of_any_size_is_cut_where_the_picture_is(shape, stored, flip):
    crop = random_crop(shape, (28, 28), flip, np.array([0.3, 0.8, 0.5]))
    image = crop.image(ramp(*shape)).astype(float)
    where = ramp(shape[0] * stored, shape[1] * stored)
    tolerance = 100 / min(shape) + 1  # of one pixel of the picture
    for channel in (0, 1):
        assert np.abs(crop.nearest(where[:, :, channel]) - image[:, :, channel]).max() <= tolerance


def test_a_flip_mirrors_picture_and_map():
    draws = np.array([0.3, 0.8, 0.5])
    straight, mirrored = (random_crop((40, 50), (28, 28), flip, draws) for flip in (0.5, 0.6))
    assert not straight.flip and mirrored.flip
    image, values = ramp(40, 50), np.random.default_rng(0).random((40, 50))
    assert (straight.image(image)[:, ::-1] == mirrored.image(image)).all()
    assert (straight.nearest(values)[:, ::-1] == mirrored.nearest(values)).all()


def test_a_map_is_never_interpolated():
    values = np.array([[1.0, np.nan, np.inf], [2.0, 5.0, 9.0]], np.float32)
    for size in ((2, 3), (20, 31), (1, 1)):
        cut = random_crop((2, 3), size, 0.0, np.zeros(NUM_CROP_DRAWS)).nearest(values)
        assert set(cut[np.isfinite(cut)].tolist()) <= {1.0, 2.0, 5.0, 9.0} and cut.dtype == np.float32
    assert np.array_equal(Crop((2, 3), (0, 2, 0, 3), False).nearest(values), values, equal_nan=True)


# CutMix's box


@given(SIDES, SIDES, DRAWS)
def test_a_box_lies_in_the_picture(height, width, draws):
    top, bottom, left, right = cutmix_box((height, width), (0.0, 1.0), draws)
    assert 0 <= top <= bottom <= height and 0 <= left <= right <= width


def test_a_box_has_its_share_unless_the_border_cuts_it():
    for share in (0.0, 0.25, 1.0):
        box = cutmix_box((100, 200), (share, share), np.array([0.9, 0.5, 0.5]))
        assert (box[1] - box[0]) * (box[3] - box[2]) == pytest.approx(share * 20000, rel=0.01)
        assert (box[1] - box[0]) / 100 == (box[3] - box[2]) / 200, "the picture's aspect"
    corner = cutmix_box((100, 200), (0.25, 0.25), np.zeros(NUM_BOX_DRAWS))
    assert corner == (0, 25, 0, 50)
