"""What data sets give and what training sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from datool.depth import Camera, DepthMap, same_aspect
from datool.errors import DatoolError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
        if self.depth is not None and not same_aspect(self.depth.shape, size):
            raise DatoolError(f"sample {self.id}: the depth map is {self.depth.shape}, the image {size}.")
        if self.camera is not None and (self.camera.height_px, self.camera.width_px) != size:
            of = (self.camera.height_px, self.camera.width_px)
            raise DatoolError(f"sample {self.id}: the camera is of a {of} image, the image is {size}.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Tensors of one training step, on the training device.

    Args:
        image: (B, 3, H, W) float32 RGB in [0, 1], not normalised; augmented where its group says so.
        clean: (B, 3, H, W) the same pictures, mixed as ``image`` is, before colour and blur; the same tensor as
            ``image`` where nothing was augmented.
        target: (B, H, W) float32 in the model's quantity, 0 where unknown.
        valid: (B, H, W) bool, where the target is known.
        region: (B, H, W) bool, False where the picture is that of the sample's CutMix partner; all True without one.
        pseudo: (B,) bool, whether the label is a model's.
        ids: names of the samples.
    """

    image: Tensor
    clean: Tensor
    target: Tensor
    valid: Tensor
    region: Tensor
    pseudo: Tensor
    ids: tuple[str, ...]

    @classmethod
    def of(cls, image: Tensor, target: Tensor, valid: Tensor, clean: Tensor | None = None) -> Batch:
        """Return a batch of unmixed samples with true labels, called 0, 1, 2, ...

        Args:
            image, target, valid, clean: as for `Batch`; without ``clean`` nothing was augmented.
        """
        ids = tuple(map(str, range(len(image))))
        region, pseudo = valid.new_ones(valid.shape), valid.new_zeros(len(valid))
        return cls(
            image=image,
            clean=image if clean is None else clean,
            target=target,
            valid=valid,
            region=region,
            pseudo=pseudo,
            ids=ids,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``; from pinned memory the copies do not wait for each other."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True), self.ids)

    def part(self, index: slice | Tensor) -> Batch:
        """Return some of the samples.

        Args:
            index: a slice (views, nothing is copied), their numbers (K,) int64, or a mask (B,) bool. On a GPU a mask
                waits for the device, and so do numbers that are there.
        """
        if isinstance(index, slice):
            return self._each(lambda tensor: tensor[index], self.ids[index])
        numbers = (index.nonzero().flatten() if index.dtype == self.valid.dtype else index).tolist()
        return self._each(lambda tensor: tensor[index], tuple(self.ids[number] for number in numbers))

    def _each(self, change: Callable[[Tensor], Tensor], ids: tuple[str, ...]) -> Batch:
        """Return the batch with each tensor changed; ``clean`` stays ``image`` where it is."""
        changed = {item.name: change(getattr(self, item.name)) for item in fields(self) if item.name not in SHARED}
        clean = changed["image"] if self.clean is self.image else change(self.clean)
        return replace(self, **changed, clean=clean, ids=ids)


# What a change of all tensors leaves to `Batch._each` itself.
SHARED = ("clean", "ids")
