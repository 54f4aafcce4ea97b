"""Laws of the network's input made on a device: it is the one that OpenCV makes."""

import numpy as np
import pytest
import torch

from datool.estimators.device_input import resize_normalised
from datool.estimators.preprocess import to_input

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("before", "after"),
    [((480, 640), (518, 686)), ((37, 51), (518, 714)), ((1500, 2000), (518, 686)), ((500, 333), (784, 518)),
     ((98, 98), (98, 98)), ((1, 1), (14, 14)), ((2, 3), (14, 28))],
)  # fmt: skip
def test_it_is_opencvs_cubic(before, after):
    image = np.random.default_rng(0).integers(0, 256, (*before, 3), dtype=np.uint8)  # noise is the worst case
    found = resize_normalised(torch.from_numpy(image), after, MEAN, STD)
    assert found.dtype == torch.float32 and found.shape == (*after, 3)
    np.testing.assert_allclose(found.numpy() * STD, to_input(image, after, MEAN, STD) * STD, atol=4e-6)
