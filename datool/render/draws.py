"""Random numbers from a counter, and the colours and materials drawn with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from datool.errors import lookup

# A row of a material: three colours, how noise, parity, cell and joint mix them, grid, noise, the way it shines; then
# what looks add (``finish``): reflection, transparency, lit windows, wear, a photo.
MATERIAL_COLUMNS = (
    *(f"{colour}_{channel}" for colour in "abc" for channel in "rgb"),
    *("by_noise", "by_parity", "by_cell", "by_joint", "grid_u", "grid_v", "joint", "shift", "warp"),
    *("noise_x", "noise_y", "noise_z", "rough", "shine", "glow", "salt"),
    *("mirror", "glass", "lit", "stain", "vein", "cobble", "wear_scale", "photo", "photo_pick", "photo_m"),
)
COLUMN = {name: number for number, name in enumerate(MATERIAL_COLUMNS)}

# by_noise, by_parity, by_cell, by_joint | cells per metre lo, hi, v/u | joint, shift, warp | noise per metre lo, hi,
# stretch
KINDS: dict[str, tuple[float, ...]] = {
    "plain": (0.15, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 6, 1),
    "mottled": (1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0.7, 12, 1),
    "speckle": (0.6, 0, 0, 0, 1, 1, 1, 0, 0, 0, 20, 90, 1),
    "stripes": (0.2, 1, 0, 0, 2, 25, 0, 0, 0, 0.1, 1, 8, 1),
    "waves": (0.2, 1, 0, 0, 2, 20, 0, 0, 0, 2.0, 0.7, 4, 1),
    "checker": (0.2, 1, 0, 0, 2, 12, 1, 0, 0, 0, 1, 8, 1),
    "bricks": (0.4, 0, 0.5, 1, 3, 5, 3, 0.12, 0.5, 0, 3, 20, 1),
    "tiles": (0.3, 0, 0.2, 0.8, 1.2, 5, 1, 0.03, 0, 0, 1, 8, 1),
    "planks": (0.5, 0, 0.7, 0.7, 0.4, 1.1, 12, 0.015, 0.37, 0, 6, 25, 12),
    "wood": (1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0.3, 8, 40, 12),
    "windows": (0.4, 0, 0.6, 1, 0.25, 0.6, 0.9, 0.27, 0, 0, 0.5, 3, 1),
    "grass": (1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1.5, 15, 1),
    "asphalt": (0.5, 0, 0.2, 0.3, 0.1, 0.4, 1, 0.01, 0.5, 0.3, 4, 40, 1),
    "leaves": (1.6, 0, 0, 0, 1, 1, 1, 0, 0, 0, 3, 10, 1),
    "print": (0.8, 0.4, 0.8, 0.2, 2, 9, 1.3, 0.05, 0.3, 0.6, 2, 9, 1),
    "fur": (1.2, 0.15, 0, 0, 3, 12, 0.7, 0, 0, 2.5, 6, 30, 3),
    "dashes": (0.4, 1, 0, 0, 0.15, 0.3, 0, 0, 0, 0, 5, 20, 1),
}

# hue centre, hue spread (turns) | saturation lo, hi | value lo, hi (linear light)
PALETTES: dict[str, tuple[float, ...]] = {
    "any": (0.5, 0.5, 0.0, 0.75, 0.04, 0.85),
    "vivid": (0.5, 0.5, 0.5, 0.95, 0.2, 0.85),
    "wood": (0.075, 0.025, 0.35, 0.7, 0.08, 0.5),
    "pale": (0.11, 0.06, 0.0, 0.2, 0.5, 0.9),
    "wall": (0.3, 0.35, 0.0, 0.35, 0.3, 0.9),
    "stone": (0.1, 0.06, 0.0, 0.25, 0.12, 0.6),
    "brick": (0.035, 0.025, 0.3, 0.7, 0.15, 0.45),
    "road": (0.6, 0.1, 0.0, 0.12, 0.06, 0.3),
    "green": (0.26, 0.07, 0.35, 0.75, 0.04, 0.35),
    "dry": (0.13, 0.04, 0.3, 0.6, 0.2, 0.6),
    "fur": (0.07, 0.03, 0.1, 0.6, 0.03, 0.7),
    "skin": (0.06, 0.02, 0.3, 0.6, 0.08, 0.75),
    "red": (0.0, 0.02, 0.7, 0.95, 0.2, 0.6),
    "grey": (0.6, 0.1, 0.0, 0.08, 0.03, 0.8),
    "dark": (0.6, 0.3, 0.0, 0.4, 0.02, 0.12),
    "glass": (0.58, 0.05, 0.1, 0.4, 0.03, 0.3),
    "white": (0.15, 0.1, 0.0, 0.06, 0.75, 0.95),
    "cloud": (0.6, 0.02, 0.0, 0.05, 0.85, 1.0),
    "sea": (0.56, 0.06, 0.3, 0.8, 0.05, 0.35),
    "sky": (0.59, 0.03, 0.15, 0.75, 0.45, 0.9),
}


def splitmix64(state: Tensor) -> Tensor:
    """Return the SplitMix64 output of int64 ``state``, wrapping; the logical shifts are arithmetic ones, masked.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    state = state + -7046029254386353131  # 0x9E3779B97F4A7C15
    state = (state ^ ((state >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    state = (state ^ ((state >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return state ^ ((state >> 31) & 0x1FFFFFFFF)


class Draws:
    """Random numbers of (seed, index, stream, position): the same for an image whatever stands beside it in a batch.

    Args:
        seed: of the whole set.
        index_b: int64, one image each; results live on its device.
        stream: separates uses, so that the scene's draws do not move when another use changes.
    """

    BLOCK = 2048

    def __init__(self, seed: int, index_b: Tensor, stream: int) -> None:
        seed = (seed + (1 << 63)) % (1 << 64) - (1 << 63)
        start = splitmix64(torch.tensor(seed, dtype=torch.int64, device=index_b.device))
        self.key_b1 = splitmix64(splitmix64(start + index_b.long()) + stream)[:, None]
        self.block, self.next = torch.empty(len(index_b), 0, dtype=torch.float64, device=index_b.device), 0
        self.drawn = 0

    def uniform(self, n: int, low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Tensor:
        """Return (B, n) float64 in [low, high)."""
        if self.next + n > self.block.shape[1]:
            position = torch.arange(self.drawn, self.drawn + max(n, self.BLOCK), device=self.key_b1.device)
            bits = splitmix64(self.key_b1 + position * 0x632BE59BD9B4E019)
            self.block, self.next = ((bits >> 11) & 0x1FFFFFFFFFFFFF).double() * 2.0**-53, 0
            self.drawn += position.numel()
        taken = self.block[:, self.next : self.next + n]
        self.next += n
        return taken * (high - low) + low

    def log_uniform(self, n: int, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Return (B, n), the logarithm uniform."""
        low, high = (torch.as_tensor(v, dtype=torch.float64, device=self.key_b1.device).log() for v in (low, high))
        return self.uniform(n, low, high).exp()

    def normal(self, n: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        """Return (B, n), Gaussian by Box-Muller."""
        radius = (-2 * (1 - self.uniform(n)).log()).sqrt()
        return mean + std * radius * (2 * math.pi * self.uniform(n)).cos()

    def chance(self, n: int, probability: float) -> Tensor:
        """Return (B, n) bool."""
        return self.uniform(n) < probability

    def sign(self, n: int) -> Tensor:
        """Return (B, n) of -1 or 1."""
        return torch.where(self.chance(n, 0.5), 1.0, -1.0).double()

    def pick(self, n: int, num: int) -> Tensor:
        """Return (B, n) int64 in [0, num)."""
        return (self.uniform(n) * num).long()


def colour(draws: Draws, n: int, palettes: Sequence[str]) -> Tensor:
    """Return (B, n, 3) linear RGB, each drawn from one of the named palettes."""
    rows = torch.tensor([lookup(PALETTES, name, "palette") for name in palettes], dtype=torch.float64)
    row = rows.to(draws.key_b1.device)[draws.pick(n, len(palettes))]
    hue = (row[..., 0] + row[..., 1] * draws.uniform(n, -1, 1))[..., None]
    saturation = draws.uniform(n, row[..., 2], row[..., 3])[..., None]
    value = draws.uniform(n, row[..., 4], row[..., 5])[..., None]
    corner = torch.tensor([0.0, 4.0, 2.0], dtype=torch.float64, device=hue.device)
    return value * (1 - saturation * (1 - (((hue * 6 + corner) % 6 - 3).abs() - 1).clamp(0, 1)))


def material(
    draws: Draws, n: int, kinds: Sequence[str], palettes: Sequence[str], scale: float = 1.0, glow: float = 0.0
) -> Tensor:
    """Return (B, n, K) materials; ``scale`` > 1 makes the texture finer, ``glow`` is light of its own."""
    rows = torch.tensor([lookup(KINDS, name, "material") for name in kinds], dtype=torch.float64)
    row = rows.to(draws.key_b1.device)[draws.pick(n, len(kinds))]
    first, other = colour(draws, n, palettes), colour(draws, n, palettes)
    shade = draws.log_uniform(n, 0.4, 1.8)[..., None]
    second = torch.where(draws.chance(n, 0.65)[..., None], (first * shade).clamp(0, 0.95), other)
    joint = torch.where(draws.chance(n, 0.6)[..., None], first * 0.45, colour(draws, n, ["pale", "stone"]))
    grid_u = draws.log_uniform(n, row[..., 4], row[..., 5]) * scale
    noise = draws.log_uniform(n, row[..., 10], row[..., 11]) * scale
    weight = draws.uniform(n, 0.35, 1.0)[..., None] * row[..., :4]
    columns = [
        *(first, second, joint, weight, grid_u, grid_u * row[..., 6]),
        *(row[..., 7] * draws.uniform(n, 0.7, 1.4), row[..., 8], row[..., 9] * draws.uniform(n, 0.3, 1.0)),
        *(noise / row[..., 12], noise, noise, draws.uniform(n, 0.3, 0.75)),
        draws.uniform(n) ** 3,
        torch.full_like(grid_u, glow),
        draws.uniform(n, 0, 4096).floor(),
        *[torch.zeros_like(grid_u)] * 9,
        torch.ones_like(grid_u),
    ]
    return torch.cat([c if c.ndim == 3 else c[..., None] for c in columns], -1)


def changed(coat: Tensor, where: Tensor, **columns: Tensor | float) -> Tensor:
    """Return the materials (B, n, K) with the named columns replaced where (B, n) bool says so."""
    columns_of = list(coat.unbind(-1))
    for name, value in columns.items():
        columns_of[COLUMN[name]] = torch.where(where, value, columns_of[COLUMN[name]])
    return torch.stack(columns_of, -1)
