"""Rendered scenes in the order in which training takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from datool.data.synthetic import render


class Scenes:
    """Rendered scenes by number: (image, depth), each a function of (seed, number, size) alone.

    A finite set is kept in memory, each scene rendered when it is first asked for; an endless one renders every time.

    Args:
        seed: of the scenes.
        num_scenes: how many different ones; 0 = endless.
        size: (height, width) in pixels.
        device: where they are rendered and kept.
    """

    def __init__(self, seed: int, num_scenes: int, size: tuple[int, int], device: torch.device) -> None:
        self.seed, self.num_scenes, self.size, self.device = seed, num_scenes, size, device
        self._stored = torch.zeros(num_scenes, dtype=torch.bool)
        self._images = torch.empty(num_scenes, 3, *self.size, dtype=torch.uint8, device=device)
        self._depths = torch.empty(num_scenes, *self.size, device=device)

    def numbers(self, start: int, count: int) -> Tensor:
        """Return which scenes samples ``start`` to ``start + count`` of the run are: (count,) int64.

        A finite set is gone through in a new order each time, which depends on (seed, round) only.
        """
        positions = torch.arange(start, start + count)
        if not self.num_scenes:
            return positions
        rounds, places = positions // self.num_scenes, positions % self.num_scenes
        orders = {int(number): self._order(int(number)) for number in rounds.unique()}
        return torch.stack([orders[int(r)][p] for r, p in zip(rounds, places, strict=True)])

    def get(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return image (B, 3, H, W) float32 RGB in [0, 1] and planar depth (B, H, W) in metres, +inf = sky."""
        if not self.num_scenes:
            images, depths = self._render(numbers)
            return images.float() / 255, depths
        missing = numbers[~self._stored[numbers]].unique()
        if len(missing):
            self._images[missing], self._depths[missing] = self._render(missing)
            self._stored[missing] = True
        return self._images[numbers].float() / 255, self._depths[numbers]

    def _order(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randperm(self.num_scenes, generator=generator)

    def _render(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        height_px, width_px = self.size
        scenes = render(self.seed, numbers, height_px, width_px, device=self.device)
        return scenes.image_b3hw, scenes.depth_bhw
