"""What a map of numbers means: depth or disparity, known up to what, seen by which camera.

Conventions, here and everywhere in datool:

- *depth* is planar (along the optical axis, not along the ray), *disparity* is inverse depth (larger = nearer);
- NaN is the only mark of unknown; depth ``+inf`` is sky, and so is disparity 0 where the ambiguity allows to say so;
- pixel (row 0, column 0) covers [0, 1) x [0, 1): its centre is (0.5, 0.5), so resizing an image scales its camera;
- letters in names of arrays: ``b`` batch, ``c`` channels, ``n`` tokens or points, ``h`` rows, ``w`` columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from datool.errors import DatoolError

# Sizes are whole pixels: a map an eighth of the image's size may miss its aspect by this share.
ASPECT_TOLERANCE = 0.02


class Quantity(str, Enum):
    """What one number of a map measures."""

    DEPTH = "depth"
    DISPARITY = "disparity"


class Ambiguity(str, Enum):
    """What is left unknown: nothing (metres, or 1/m), a factor, or a factor and an offset."""

    NONE = "none"
    SCALE = "scale"
    SCALE_AND_SHIFT = "scale-and-shift"


@dataclass(frozen=True, eq=False)
class DepthMap:
    """A map with its meaning.

    Args:
        values: (H, W) float32. NaN = unknown. Depth: > 0 or +inf (sky) unless its shift is unknown;
            disparity: >= 0 unless its shift is unknown.
        quantity: depth or disparity.
        ambiguity: what is unknown about the values; ``NONE`` means metres or 1/m.
    Raises:
        DatoolError: wrong shape or type, or a value that the quantity does not allow.
    """

    values: np.ndarray
    quantity: Quantity
    ambiguity: Ambiguity

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantity", Quantity(self.quantity))
        object.__setattr__(self, "ambiguity", Ambiguity(self.ambiguity))
        values = self.values
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype != np.float32 or 0 in values.shape:
            got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            raise DatoolError(f"a DepthMap holds a non-empty (H, W) float32 array, got {got}.")
        if self.ambiguity is Ambiguity.SCALE_AND_SHIFT:
            if np.isinf(values).any():
                raise DatoolError(f"{self.quantity.value} known up to scale and shift cannot be infinite.")
            return
        low = np.nanmin(values) if self.valid.any() else 1.0
        if self.quantity is Quantity.DEPTH and low <= 0:
            raise DatoolError(f"depth must be above 0, got {low:g}.", "Mark unknown pixels with NaN.")
        if self.quantity is Quantity.DISPARITY and (low < 0 or np.isinf(values).any()):
            worst = low if low < 0 else np.inf
            raise DatoolError(f"disparity must be finite and not negative, got {worst:g}.", "Mark unknown with NaN.")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def valid(self) -> np.ndarray:
        """(H, W) bool: where the value is known (sky is known)."""
        return ~np.isnan(self.values)

    def to(self, quantity: Quantity) -> DepthMap:
        """Return the same map as ``quantity``; sky goes from depth +inf to disparity 0 and back.

        Raises:
            DatoolError: the map's shift is unknown, so that its inverse means nothing.
        """
        quantity = Quantity(quantity)
        if quantity is self.quantity:
            return self
        if self.ambiguity is Ambiguity.SCALE_AND_SHIFT:
            raise DatoolError(
                f"cannot turn {self.quantity.value} known up to scale and shift into {quantity.value}.",
                "Align it to known depth (datool.evaluation.alignment), or use a metric model.",
            )
        with np.errstate(divide="ignore"):
            return DepthMap(np.float32(1) / self.values, quantity, self.ambiguity)


def same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two sizes (height, width) can be of one picture, up to ``ASPECT_TOLERANCE``."""
    return abs(size[0] / other[0] / (size[1] / other[1]) - 1) <= ASPECT_TOLERANCE


@dataclass(frozen=True)
class Camera:
    """A pinhole camera for an image of (height_px, width_px).

    Args:
        fx_px, fy_px: focal lengths in pixels; fy_px < 0 where a data set's y axis points up.
        cx_px, cy_px: principal point in pixels, the top-left pixel's centre being (0.5, 0.5).
        height_px, width_px: the image that these numbers belong to.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    height_px: int
    width_px: int

    def resized(self, height_px: int, width_px: int) -> Camera:
        """Return the camera of the same picture resized to (height_px, width_px)."""
        scale_y, scale_x = height_px / self.height_px, width_px / self.width_px
        return Camera(
            self.fx_px * scale_x, self.fy_px * scale_y, self.cx_px * scale_x, self.cy_px * scale_y, height_px, width_px
        )
