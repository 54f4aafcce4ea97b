"""Pictures of the sky: aeroplanes, birds, balloons and kites over a horizon of sea, mountains, roofs or trees."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws, material
from datool.render.facades import coat_of_houses
from datool.render.figures import birds
from datool.render.limbs import Kit, kits, limb
from datool.render.props import Stage, point, trees, turn
from datool.render.views import View, daylight, ground

# x along the wings' chord is tilted in no kit; half sizes as in limbs.Kit
AIRLINER: Kit = (
    *((0.0, -0.03, 0.14, 1.0, 0.012, 0, 0), (-0.9, 0.2, 0.08, 0.36, 0.01, 0, 0)),
    *((-0.86, 0.5, 0.11, 0.012, 0.42, 0, 1), (0.12, -0.2, 0.12, 0.32, 0.001, 0, 0)),
)
GLIDER: Kit = (
    *((0.15, 0.1, 0.12, 1.0, 0.02, 0, 0), (-0.9, 0.1, 0.08, 0.28, 0.02, 0, 0)),
    *((-0.9, 0.45, 0.1, 0.012, 0.4, 0, 1), (0.15, 0.45, 0.12, 1.0, 0.02, 0, 1)),
)


def sky(draws: Draws) -> tuple[Stage, View]:
    """Return a view that looks up or to the horizon, with something that flies before the sky."""
    stage = Stage(draws)
    zero = torch.zeros_like(draws.key_b1, dtype=torch.float64)
    eye = torch.cat([zero, zero, torch.where(draws.chance(1, 0.3), draws.log_uniform(1, 3, 60), zero + 1.6)], -1)
    pitch = torch.where(draws.chance(1, 0.6), draws.uniform(1, 0.1, 0.5), draws.uniform(1, -0.12, 0.15))
    sea = draws.chance(1, 0.4)
    coat = torch.where(
        sea[..., None],
        material(draws, 1, ("mottled", "waves"), ("sea",), 0.6),
        material(draws, 1, ("grass", "mottled", "speckle"), ("green", "dry", "stone")),
    )
    ground(stage, coat[:, 0])
    _horizon(stage, sea)
    _below(stage, eye, pitch, sea)
    _fliers(stage, eye, pitch)
    view = View(eye, zero, pitch, draws.normal(1, 0, 0.06), **daylight(draws))
    return stage, view


def _horizon(stage: Stage, sea: Tensor) -> None:
    """Add ranges of mountains, the nearer the lower, and ships."""
    draws = stage.draws
    there = draws.chance(1, 0.65)
    for kind, n, near, far in (("box", 7, 1500, 4000), ("ellipsoid", 5, 500, 3000), ("box", 4, 300, 1200)):
        x, angle = draws.log_uniform(n, near, far), draws.uniform(n, -0.9, 0.9)
        rise = draws.log_uniform(1, 0.03, 0.2) * draws.uniform(n, 0.4, 1.0)
        half = x[..., None] * point(draws.uniform(n, 0.1, 0.25), draws.uniform(n, 0.12, 0.4), rise)
        coat = material(draws, n, ("mottled", "mottled", "leaves", "speckle"), ("stone", "green", "grey", "dry"), 0.02)
        crooked = kind == "box"  # a corner of a box makes a peak
        axes = turn(
            angle + draws.normal(n, 0, 0.5), draws.uniform(n, 0.1, 0.8) * crooked, draws.uniform(n, 0, 1.5) * crooked
        )
        centre = point(x * angle.cos(), x * angle.sin(), -0.15 * x * rise)
        stage.put(kind, centre, half, axes, coat, there & draws.chance(n, 0.7))
    n = 3
    x, angle, size = draws.log_uniform(n, 40, 800), draws.uniform(n, -0.6, 0.6), draws.log_uniform(n, 3, 30)
    at, hull = point(x * angle.cos(), x * angle.sin(), 0.1 * size), point(size, 0.25 * size, 0.15 * size)
    paint, afloat = material(draws, n, ("plain", "stripes"), ("white", "dark", "any")), sea & draws.chance(n, 0.5)
    yaw = draws.uniform(n, 0, 6.28)
    stage.put("ellipsoid", at, hull, turn(yaw), paint, afloat)
    high = point(0 * x, 0 * x, size)
    limb(stage, at, at + high * 1.2, 0.02 * size, paint, afloat, "cylinder")
    sail = point(0.4 * size, 0.02 * size, 0.5 * size)
    stage.put("box", at + high * 0.7, sail, turn(yaw), material(draws, n, ("plain",), ("white", "vivid")), afloat)


def _below(stage: Stage, eye: Tensor, pitch: Tensor, sea: Tensor) -> None:
    """Add what reaches into the picture from below: tree tops, roofs and towers, poles."""
    draws, n = stage.draws, 4
    low = eye[:, 2:] < 3
    x, angle = draws.log_uniform(n, 4, 60), draws.uniform(n, -0.8, 0.8)
    xy = torch.stack([x * angle.cos(), x * angle.sin()], -1)
    tall = (x * (pitch - 0.1).clamp_min(0.05) * draws.uniform(n, 0.6, 2.2)).clamp(1.5, 25)
    trees(stage, eye, xy, 0 * x, tall, draws.chance(n, 0.55) & low & ~sea)
    n = 4
    x, angle = draws.log_uniform(n, 15, 150), draws.uniform(n, -0.8, 0.8)
    tall = (x * (pitch - 0.1).clamp_min(0.03) * draws.uniform(n, 0.4, 2.0)).clamp(2.5, 120) / 2
    half = point(draws.uniform(n, 3, 9), draws.uniform(n, 3, 9), tall)
    centre, yaw = point(x * angle.cos(), x * angle.sin(), tall), draws.uniform(n, 0, 1.6)
    there = draws.chance(n, 0.5) & draws.chance(1, 0.6) & ~sea
    stage.put("box", centre, half, turn(yaw), coat_of_houses(draws, n), there, mark="house")
    tip = point(0 * x, 0 * x, tall * draws.uniform(n, 1.1, 1.5))
    metal = material(draws, n, ("plain", "stripes"), ("grey", "red", "white"))
    limb(stage, centre, centre + tip, 0 * x + 0.25, metal, there & draws.chance(n, 0.4), "cylinder")
    n = 3
    x, angle = draws.log_uniform(n, 2.5, 20), draws.uniform(n, -0.7, 0.7)
    foot = point(x * angle.cos(), x * angle.sin(), 0 * x)
    top = foot + point(draws.normal(n, 0, 0.05) * x, 0 * x, draws.uniform(n, 3, 10))
    pole = draws.chance(n, 0.35) & low & ~sea
    limb(stage, foot, top, draws.uniform(n, 0.03, 0.15), metal[:, :n], pole, "cylinder")
    stage.put("ellipsoid", top, point(0 * x + 0.3, 0 * x + 0.3, 0 * x + 0.2), turn(0 * x), metal[:, :n], pole)


def _fliers(stage: Stage, eye: Tensor, pitch: Tensor) -> None:
    """Add an aeroplane or two, birds, balloons: each where the camera looks, so far that it shows."""
    draws, zero = stage.draws, torch.zeros_like(pitch)

    def spot(n: int, size: Tensor, least: float, most: float) -> Tensor:
        """Return (B, n, 3): where something of this size fills that share of the view; the first near its middle."""
        far = size / draws.log_uniform(n, least, most)
        apart = torch.where(torch.arange(n, device=size.device) == 0, 0.05, 0.2)
        up, aside = (pitch + (0.3 + draws.normal(n)) * 0.7 * apart).clamp_min(0.03), draws.normal(n) * apart
        return eye[:, None] + far[..., None] * point(up.cos() * aside.cos(), up.cos() * aside.sin(), up.sin())

    flock, afloat = draws.chance(1, 0.5), draws.chance(1, 0.35)
    flown = draws.chance(1, 0.5) | ~(flock | afloat)  # something always flies
    n = 2
    liner = draws.chance(n, 0.6)
    length = torch.where(liner, draws.uniform(n, 15, 36), draws.uniform(n, 3, 6))
    size = point(length, length * torch.where(liner, 0.95, 1.3), length * torch.where(liner, 0.35, 0.25))
    centre, yaw = spot(n, length, 0.04, 0.5), draws.uniform(n, 0, 6.28)
    there = flown & torch.cat([zero == 0, draws.chance(1, 0.2)], 1)
    white = material(draws, n, ("plain",), ("white", "white", "grey", "any"))
    paint = material(draws, n, ("plain", "stripes"), ("vivid", "white"))
    kits(stage, (AIRLINER, GLIDER), (~liner).long(), centre[..., :2], centre[..., 2], yaw, size, (white, paint), there)
    ahead = point(yaw.cos(), yaw.sin(), 0 * yaw) * length[..., None]
    limb(stage, centre - 0.85 * ahead, centre + 0.85 * ahead, 0.1 * length, white, there)
    for hand in (-1, 1):
        wing = centre + hand * 0.4 * size[..., 1:2] * point(-yaw.sin(), yaw.cos(), 0 * yaw)
        wing = wing - point(0 * yaw, 0 * yaw, 0.06 * length)
        limb(stage, wing - 0.05 * ahead, wing + 0.13 * ahead, 0.05 * length, paint, there & liner)
    n = 6
    size = draws.log_uniform(n, 0.2, 0.8)
    there = flock & (draws.chance(n, 0.7) | (torch.arange(n, device=size.device) == 0))
    birds(stage, spot(n, size, 0.02, 0.3), draws.uniform(n, 0, 6.28), size, torch.ones_like(there), there)
    n = 3
    size = draws.log_uniform(n, 0.15, 8)
    at = spot(n, size, 0.03, 0.3)
    there = afloat & (draws.chance(n, 0.5) | (torch.arange(n, device=size.device) == 0))
    gas = material(draws, n, ("plain", "stripes", "checker", "print"), ("vivid", "any"))
    stage.put("ellipsoid", at, point(size, size, 1.15 * size), turn(draws.uniform(n, 0, 6.28)), gas, there)
    basket = at - point(0 * size, 0 * size, 1.6 * size)
    stage.put(
        "box", basket, point(0.2 * size, 0.2 * size, 0.15 * size), turn(0 * size), white[:, :1].expand(-1, n, -1), there
    )
    limb(stage, at, basket, 0.03 * size, gas, there, "cylinder")
    card = point(size, 0.7 * size, 0.02 * size)
    kite = turn(draws.uniform(n, 0, math.tau), draws.uniform(n, 0.3, 1.3))
    stage.put(
        "box", spot(n, size, 0.03, 0.2), card, kite, gas, draws.chance(n, 0.5) & draws.chance(1, 0.2) & (size < 2)
    )
