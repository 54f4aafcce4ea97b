"""Hills: a sum of waves over the ground plane that is flat about the origin, met by rays to float precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws

FLAT_M = 14.0  # within about this distance of the origin the ground hardly rises, so that what stands there stands
NUM_WAVES = 6
WAVES_SEEN = 3.0
STEPS, HALVINGS = 56, 15
REACH_M = 5000.0


def draw_waves(draws: Draws, share: float) -> Tensor:
    """Return (B, W, 4): amplitude in m (0: no hills), wave number along x and y in rad/m, phase."""
    n = NUM_WAVES
    length = torch.cat([draws.log_uniform(2, 150, 700), draws.log_uniform(2, 45, 160), draws.log_uniform(2, 9, 40)], -1)
    steep = draws.log_uniform(1, 0.012, 0.09) * draws.uniform(n, 0.4, 1.0)
    heading, phase = draws.uniform(n, 0, 2 * math.pi), draws.uniform(n, 0, 2 * math.pi)
    number = 2 * math.pi / length
    there = draws.chance(1, share)
    return torch.stack([steep * length * there, number * heading.cos(), number * heading.sin(), phase], -1)


def height(waves_bw4: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return metres of the ground above z = 0 at (B, N) x and y.

    Waves fade in about the origin, and each fades out beyond ``WAVES_SEEN`` of its lengths, so that a ray's steps,
    which grow with distance, miss no crest.
    """
    tall, kx, ky, phase = waves_bw4[..., None].unbind(2)
    rise, out = torch.zeros_like(x), x * x + y * y
    end = (kx * kx + ky * ky) / (2 * math.pi * WAVES_SEEN) ** 2  # of a wave, 1/m2
    for w in range(waves_bw4.shape[1]):
        fade = 1 / (1 + (out * end[:, w]) ** 2)
        rise = rise + tall[:, w] * fade * torch.sin(kx[:, w] * x + ky[:, w] * y + phase[:, w])
    return rise * (out / (out + FLAT_M**2))


def slope(waves_bw4: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the height's differences along x and y at (B, N) points, for shading."""
    step = 0.02 + 2e-3 * (x.abs() + y.abs())
    by_x = height(waves_bw4, x + step, y) - height(waves_bw4, x - step, y)
    by_y = height(waves_bw4, x, y + step) - height(waves_bw4, x, y - step)
    return by_x / (2 * step), by_y / (2 * step)


def meet(waves_bw4: Tensor, origin_b3n: Tensor, ray_b3n: Tensor) -> Tensor:
    """Return (B, N): the ray's first way down through the ground, as a multiple of the ray; beyond ``REACH_M``: none.

    Marched in equal ratios from the ray's first to its last point within the hills' height, then halved to float32
    precision. A crest narrower than a step is not met, by the picture as little as by the depth.
    """
    ox, oy, oz = torch.broadcast_tensors(*origin_b3n.unbind(1), ray_b3n[:, 0])[:3]
    dx, dy, dz = ray_b3n.unbind(1)
    top = waves_bw4[..., 0].abs().sum(1, keepdim=True)
    down, up = dz.clamp_max(-1e-9), dz.clamp_min(1e-9)
    first = ((oz - top) / -down).clamp(0.2, REACH_M)
    last = torch.where(dz < 0, (oz + top) / -down, (top - oz) / up).clamp(0.2, REACH_M)
    ratio = ((last / first).clamp_min(1).log() * (1.0001 / STEPS)).exp()

    def above(t: Tensor) -> Tensor:
        return oz + t * dz - height(waves_bw4, ox + t * dx, oy + t * dy)

    t, low, high = first, first, torch.full_like(first, 2 * REACH_M)
    met = torch.zeros_like(first, dtype=torch.bool)
    for _ in range(STEPS):
        onward = t * ratio
        crossing = ~met & (above(onward) <= 0)
        low, high = torch.where(crossing, t, low), torch.where(crossing, onward, high)
        met, t = met | crossing, onward
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        clear = above(middle) > 0
        low, high = torch.where(clear, middle, low), torch.where(clear, high, middle)
    # a ray that dives through flat land beyond the last step has met nothing; one that starts below has no way down
    return torch.where(met & (above(first) > 0), (low + high) / 2, 2 * REACH_M)
