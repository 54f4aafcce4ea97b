from __future__ import annotations

from math import ceil

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datool.errors import DatoolError
from datool.estimators.preprocess import BAND_PIXELS, BAND_ROWS, network_size, to_input

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# Computed by hand from the published rule, height x width of the photo -> of the input; 518 and patch 14 unless said.
@pytest.mark.parametrize(
    ("photo", "size_px", "patch_px", "wanted"),
    [
        ((518, 518), 518, 14, (518, 518)),
        ((480, 640), 518, 14, (518, 686)),  # 690.67 / 14 = 49.33
        ((640, 480), 518, 14, (686, 518)),
        ((375, 1242), 518, 14, (518, 1722)),  # 1715.6 / 14 = 122.54
        ((1080, 1920), 518, 14, (518, 924)),  # 920.9 / 14 = 65.78
        ((3000, 4000), 518, 14, (518, 686)),
        ((500, 333), 518, 14, (784, 518)),  # 777.8 / 14 = 55.56
        ((1, 1), 518, 14, (518, 518)),
        ((74, 75), 518, 14, (518, 532)),  # 525 / 14 = 37.5: half goes to the even 38
        ((74, 77), 518, 14, (518, 532)),  # 539 / 14 = 38.5: half goes to the even 38
        ((400, 404), 518, 14, (518, 518)),  # 523.18 / 14 = 37.37: down, yet not below 518
        ((300, 400), 505, 14, (518, 672)),  # 505 / 14 = 36.07: rounding gives 504, below 505, so up
        ((480, 640), 224, 16, (224, 304)),  # 298.67 / 16 = 18.67
        ((720, 1280), 500, 16, (512, 896)),  # 888.9 / 16 = 55.56
    ],
)
def test_network_size_by_hand(photo, size_px, patch_px, wanted):
    assert network_size(*photo, size_px, patch_px) == wanted


def official_size(height, width, size_px, patch_px):
    """The published rule, written out a second time: Resize with keep_aspect_ratio and resize_method lower_bound."""
    scale_h, scale_w = size_px / height, size_px / width
    scale = scale_w if scale_w > scale_h else scale_h
    sides = []
    for side in (scale * height, scale * width):
        multiple = int(np.round(side / patch_px) * patch_px)
        sides.append(multiple if multiple >= size_px else int(ceil(side / patch_px) * patch_px))
    return tuple(sides)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(14, 700), st.sampled_from([14, 16]))
def test_network_size_is_the_official_one(height, width, size_px, patch_px):
    if max(height, width) > 8 * min(height, width) or size_px < patch_px:
        return
    got = network_size(height, width, size_px, patch_px)
    assert got == official_size(height, width, size_px, patch_px)
    assert min(got) >= size_px and got[0] % patch_px == 0 and got[1] % patch_px == 0


def test_elongated_is_refused_by_name():
    assert network_size(100, 800, 28, 14) == (28, 224)
    with pytest.raises(DatoolError, match="--max-aspect"):
        network_size(100, 801, 28, 14)
    assert network_size(100, 1000, 28, 14, max_aspect=10) == (28, 280)


def test_size_below_a_patch_is_refused():
    with pytest.raises(DatoolError, match="--size"):
        network_size(100, 100, 13, 14)


@pytest.mark.parametrize("photo", [(1, 1), (37, 53), (480, 640), (2 * BAND_ROWS + 1, BAND_PIXELS // (2 * BAND_ROWS))])
def test_pixels_are_the_official_ones(photo):
    image = np.random.default_rng(0).integers(0, 256, (*photo, 3), dtype=np.uint8)
    height, width = network_size(*photo, 112, 14)
    official = (cv2.resize(image / 255.0, (width, height), interpolation=cv2.INTER_CUBIC) - MEAN) / STD
    got = to_input(image, (height, width), MEAN, STD)
    assert got.dtype == np.float32
    assert np.abs(got - official).max() < 1e-6


def test_cubic_overshoot_is_kept():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    got = to_input(image, (112, 112), (0, 0, 0), (1, 1, 1))
    assert got.min() < -0.01 and got.max() > 1.01
