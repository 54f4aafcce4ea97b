"""What data sets give and what training sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datool.depth import Camera, DepthMap
from datool.errors import DatoolError

if TYPE_CHECKING:
    from torch import Tensor

# Sizes are whole pixels: a map an eighth of the image's size may miss its aspect by this share.
ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and what is known about it.

    Args:
        id: name within its data set, stable over releases and machines.
        image: (H, W, 3) uint8 RGB.
        depth: of the image's aspect, often smaller (lidar, phones); None = unlabelled.
        camera: of this image; None = unknown.
        pseudo: whether ``depth`` is a model's label.
    Raises:
        DatoolError: an image of another shape or type, a map of another aspect, or a camera of another size.
    """

    id: str
    image: np.ndarray
    depth: DepthMap | None = None
    camera: Camera | None = None
    pseudo: bool = False

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            got = f"{self.image.dtype} {self.image.shape}"
            raise DatoolError(f"the image of sample {self.id} is {got}, expected (H, W, 3) uint8 RGB.")
        size = self.image.shape[:2]
        if self.depth is not None:
            ratio_y, ratio_x = (mine / its for mine, its in zip(self.depth.shape, size, strict=True))
            if abs(ratio_y / ratio_x - 1) > ASPECT_TOLERANCE:
                raise DatoolError(f"sample {self.id}: the depth map is {self.depth.shape}, the image {size}.")
        if self.camera is not None and (self.camera.height_px, self.camera.width_px) != size:
            of = (self.camera.height_px, self.camera.width_px)
            raise DatoolError(f"sample {self.id}: the camera is of a {of} image, the image is {size}.")


@dataclass(frozen=True)
class Batch:
    """Tensors of one training step, on the training device.

    Args:
        image: (B, 3, H, W) float32 RGB in [0, 1], not yet normalised.
        target: (B, H, W) float32 in the model's quantity: disparity in [0, 1] for relative models.
        valid: (B, H, W) bool, where the target is known.
    """

    image: Tensor
    target: Tensor
    valid: Tensor
