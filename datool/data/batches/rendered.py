"""Rendered scenes in the order in which training takes them, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from datool.data.batches.sampler import check_parts, share
from datool.data.batches.transforms import NUM_COLOUR_DRAWS, NUM_WINDOW_DRAWS, colour, disparity_target, window
from datool.data.sample import Batch
from datool.render import Look, render


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
        scenes = render(self.seed, numbers, height_px, width_px, device=self.device, look=Look.plain())
        return scenes.image_b3hw, scenes.depth_bhw


class RenderedBatches:
    """Batches of rendered scenes, one rank's part of each step: a window of a scene, its colours changed.

    Args:
        seed: of the scenes and of all draws.
        num_scenes, scene_px: as for `Scenes`.
        sizes: (share of the run after which it holds, height, width) of the network's input.
        zoom, strength: as for `window` and `colour`.
        batch_size: of all ranks together.
        steps: of the whole run.
        rank, world: which of how many.
        device: where scenes are rendered and kept.
        micro: batches that a rank's part of a step is given in.
        target: ``disparity-minmax``, or ``depth`` in metres, where what is farther than ``max_depth_m`` is unknown.
    Raises:
        DatoolError: world x micro does not divide the batch size.
    """

    def __init__(
        self,
        seed: int,
        num_scenes: int,
        scene_px: tuple[int, int],
        sizes: Sequence[tuple[float, int, int]],
        zoom: float,
        strength: float,
        batch_size: int,
        steps: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        micro: int = 1,
        target: str = "disparity-minmax",
        max_depth_m: float = float("inf"),
    ) -> None:
        check_parts(batch_size, world, micro)
        self.scenes = Scenes(seed, num_scenes, scene_px, torch.device(device))
        self.sizes, self.zoom, self.strength = sizes, zoom, strength
        self.batch_size, self.steps = batch_size, steps
        self.max_depth_m = max_depth_m if target == "depth" else None
        self.rank, self.world, self.micro = rank, world, micro

    @property
    def num_samples(self) -> tuple[int, ...]:
        """How many scenes there are; 0 = a new one for each sample."""
        return (self.scenes.num_scenes,)

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this rank's batches from ``step`` on, without end, ``micro`` a step."""
        size = self.batch_size // self.micro
        for part in count(step * self.micro):
            mine = share(part * size, size, self.rank, self.world)
            yield self._batch(mine, part // self.micro)

    def _batch(self, positions: range, step: int) -> Batch:
        numbers = self.scenes.numbers(positions.start, len(positions))
        image, depth = self.scenes.get(numbers)
        draws = scene_draws(self.scenes.seed, positions).to(image.device)
        size = next((h, w) for after, h, w in reversed(self.sizes) if step >= after * self.steps)
        clean, depth = window(image, depth, size, self.zoom, draws[:, :NUM_WINDOW_DRAWS])
        image = colour(clean, self.strength, draws[:, NUM_WINDOW_DRAWS:])
        if self.max_depth_m is None:
            target, valid = disparity_target(depth)
        else:
            valid = depth.isfinite() & (depth <= self.max_depth_m)
            target = torch.where(valid, depth, 0)
        return replace(Batch.of(image, target, valid, clean), ids=tuple(f"scene-{n}" for n in numbers.tolist()))


def scene_draws(seed: int, positions: range) -> Tensor:
    """Return uniform draws (B, K) for `window` and `colour`, each row a function of (seed, position in the run)."""
    rows = []
    for position in positions:
        generator = torch.Generator().manual_seed((seed << 40) + position)
        rows.append(torch.rand(NUM_WINDOW_DRAWS + NUM_COLOUR_DRAWS, generator=generator))
    return torch.stack(rows)
