"""A folder of photos as textures."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from datool.files import list_images, read_image

SIZE_PX = 256
LEVELS = 6  # 256, 128, ..., 8 pixels
MOST = 256  # photos in memory: about a megabyte each


def choose(folder: str | Path, most: int = MOST, seed: int | None = None) -> list[Path]:
    """Return at most ``most`` images of a folder: the first by name, or drawn by a seed."""
    paths = [Path(file.path) for file in list_images([str(folder)])]
    if seed is None or len(paths) <= most:
        return paths[:most]
    return random.Random(seed).sample(paths, most)


@dataclass(frozen=True)
class Photos:
    """Square photos at several sizes, to be laid on surfaces.

    Args:
        texels_3m: linear RGB of all photos at 256 pixels, then at 128, and so on.
        num: how many photos.
    """

    texels_3m: Tensor
    num: int

    @classmethod
    def load(
        cls, folder: str | Path, device: str | torch.device = "cpu", most: int = MOST, seed: int | None = None
    ) -> Photos:
        """Return the middle squares of the images that ``choose`` says.

        Raises:
            DatoolError: no image in the folder, or one that cannot be read.
        """
        paths = choose(folder, most, seed)
        squares = torch.from_numpy(np.stack([_square(read_image(path)) for path in paths])).to(device)
        texels = (squares.permute(3, 0, 1, 2).float() / 255) ** 2.2
        levels = [texels]
        for _ in range(LEVELS - 1):
            levels.append(torch.nn.functional.avg_pool2d(levels[-1], 2))
        return cls(torch.cat([level.reshape(3, -1) for level in levels], 1), len(paths))

    def sample(self, pick: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Tensor:
        """Return (3, M) linear RGB at u to the right and v upwards, in photo widths, mirrored beyond the rim.

        Args:
            pick: (M,) in [0, 1), which photo.
            u, v: (M,) in photo widths; 0 to 1 is the photo itself.
            footprint: (M,) photo widths that the pixel covers.
        """
        level = (footprint * SIZE_PX).clamp_min(1e-6).log2().ceil().clamp(0, LEVELS - 1).long()
        size = SIZE_PX >> level
        start = self.num * (4 * (SIZE_PX * SIZE_PX - size * size) // 3)  # the texels of all larger levels
        photo = start + (pick * self.num).long().clamp_max(self.num - 1) * size * size
        fold = lambda t: 1 - (t - 2 * (t / 2).floor() - 1).abs()  # noqa: E731
        x, y = fold(u) * size - 0.5, (1 - fold(v)) * size - 0.5
        left, top = x.floor(), y.floor()
        found = torch.zeros(3, len(u), device=u.device)
        for i in (0, 1):
            for j in (0, 1):
                weight = (1 - (x - left - i).abs()) * (1 - (y - top - j).abs())
                column = (left.long() + i).clamp_min(0).minimum(size - 1)
                row = (top.long() + j).clamp_min(0).minimum(size - 1)
                found = found + weight * self.texels_3m[:, photo + row * size + column]
        return found


def _square(image_hw3: np.ndarray) -> np.ndarray:
    """Return the middle square, (256, 256, 3) uint8."""
    height, width = image_hw3.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(image_hw3[top : top + side, left : left + side], (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
