"""Image in, `DepthMap` out: one protocol for every way to estimate depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from datool.depth import DepthMap


class Estimator(Protocol):
    """Whatever turns photos into maps: a torch model, an exported one, another project's, or maps saved earlier."""

    def predict(self, images: Sequence[np.ndarray]) -> list[DepthMap]:
        """Return one map an image, of the image's size.

        Args:
            images: (H, W, 3) uint8 RGB each, of any sizes.
        """
        ...
