"""A shape without a unit, from a map whose shift is unknown: an honest guess, said with the result."""

from __future__ import annotations

import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError

# The farthest depth over the nearest, where nothing says what it is; and the shares of pixels left out at both ends.
FAR_OVER_NEAR = 10.0
# Inverse depth that counts as 0, sky: a hundredth of the farthest depth's.
SKY_BELOW = 1e-3
OUTER_SHARE = 0.01


def to_relative(depth: DepthMap) -> tuple[DepthMap, str]:
    """Return depth of no unit, and how it came about.

    Known up to scale, the shape is right and only its size is open. With an unknown shift the shape itself is a guess:
    disparity from its 1st to its 99th percentile is laid linearly between 1/10 and 1, so that depth goes from 1 to 10;
    what would lie at or behind infinity becomes sky, and so does a lowest disparity of exactly 0, at which published
    models clip what is farther than they tell (a ninth of a KITTI street). Depth of unknown shift is laid from 1 to 10
    likewise, and what would lie at or behind the camera is unknown.

    Args:
        depth: any map.
    Raises:
        DatoolError: a map of one value.
    """
    if depth.ambiguity is not Ambiguity.SCALE_AND_SHIFT:
        turned = depth.to(Quantity.DEPTH)
        return DepthMap(turned.values, Quantity.DEPTH, Ambiguity.SCALE), f"{depth.quantity.value} without its scale"
    known = depth.values[depth.valid]
    if not len(known):
        return DepthMap(depth.values, Quantity.DEPTH, Ambiguity.SCALE), "nothing is known"
    clipped = depth.quantity is Quantity.DISPARITY and known.min() == 0 < known.max()
    low, high = np.quantile(known[known > 0] if clipped else known, [OUTER_SHARE, 1 - OUTER_SHARE]).tolist()
    if not low < high:
        raise DatoolError(f"the map is flat ({low:g} everywhere): there is no shape in it.")
    share = (depth.values - np.float32(low)) / np.float32(high - low)
    if depth.quantity is Quantity.DISPARITY:
        inverse = 1 / FAR_OVER_NEAR + share * (1 - 1 / FAR_OVER_NEAR)
        inverse[(inverse < SKY_BELOW) | (clipped & (depth.values == 0))] = 0
        with np.errstate(divide="ignore"):
            values = 1 / inverse
        words = f"1/depth is linear in the disparity, from 1/{FAR_OVER_NEAR:g} at its 1st to 1 at its 99th percentile"
    else:
        values = 1 + share * (FAR_OVER_NEAR - 1)
        values[values <= 0] = np.nan
        words = f"depth is linear in the map, from 1 at its 1st to {FAR_OVER_NEAR:g} at its 99th percentile"
    return DepthMap(values.astype(np.float32), Quantity.DEPTH, Ambiguity.SCALE), words
