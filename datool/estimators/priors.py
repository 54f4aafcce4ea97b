"""What a map is worth that did not look: every score stands beside these."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import lookup
from datool.estimators.rivals import Rival

PREFIX = "prior:"


class Prior(Rival):
    """A map that depends on the photo's size alone, as disparity up to scale and shift.

    Args:
        name: ``constant``: the same everywhere; ``rows``: lower in the picture is nearer, evenly.
    Raises:
        DatoolError: another name.
    """

    def __init__(self, name: str) -> None:
        self._shade = lookup(PRIORS, name, "prior")
        super().__init__(PREFIX + name)

    def estimate(self, image: np.ndarray) -> DepthMap:
        """Return the map of a photo (H, W, 3), of its size, in [0, 1]."""
        height, width = image.shape[:2]
        rows = np.float32(self._shade(np.linspace(0, 1, height, dtype=np.float32)))
        values = np.ascontiguousarray(np.broadcast_to(rows[:, None], (height, width)))
        return DepthMap(values, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)


# Name -> disparity of each row from its place: 0 at the top, 1 at the bottom.
PRIORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"constant": np.ones_like, "rows": lambda place: place}
