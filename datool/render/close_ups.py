"""One thing close to the camera, before a ground and a wall, a hedge or open land: people, animals, plants, objects."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws, changed, material
from datool.render.facades import coat_of_houses
from datool.render.figures import beasts, birds, persons
from datool.render.limbs import limb
from datool.render.props import OBJECT_KINDS, OBJECT_PALETTES, Stage, cut, point, things, trees, turn
from datool.render.views import View, daylight, ground

SUBJECTS = {"animal": 0.28, "person": 0.28, "plant": 0.12, "object": 0.14, "bird": 0.06, "heap": 0.12}  # shares


def close_up(draws: Draws) -> tuple[Stage, View]:
    """Return a subject that fills much of the picture; the lens is in focus on it."""
    stage = Stage(draws)
    edges = torch.tensor(list(SUBJECTS.values()), dtype=torch.float64, device=draws.key_b1.device).cumsum(0)
    kind = (draws.uniform(1) >= edges[:-1]).sum(1, keepdim=True)
    is_ = {name: kind == number for number, name in enumerate(SUBJECTS)}
    zero = torch.zeros_like(kind, dtype=torch.float64)
    size = torch.where(is_["person"], 1.7, torch.where(is_["animal"], draws.log_uniform(1, 0.35, 2.2), 1.0))
    small = is_["plant"] | is_["object"] | is_["bird"] | is_["heap"]
    size = torch.where(small, draws.log_uniform(1, 0.08, 0.6), size)
    # on the ground, or raised: a table, a wall, a branch
    raised = small & draws.chance(1, 0.55)
    lift = torch.where(raised, draws.uniform(1, 0.5, 1.4), 0.0)
    far = size * draws.log_uniform(1, 0.9, 3.2) + 0.15
    height = torch.where(is_["animal"], 0.55 * size, torch.where(is_["person"], draws.uniform(1, 0.9, 1.6), 0.4 * size))
    above = torch.where(draws.chance(1, 0.35), draws.uniform(1, -0.2, 0.3), draws.uniform(1, 0.1, 1.1))
    eye_z = (lift + height + far * above.sin()).clamp_min(0.12)
    eye = torch.cat([zero, zero, eye_z], -1)
    xy = torch.cat([far * above.cos(), zero], -1)
    pitch = torch.atan2(lift + height - eye_z, xy[:, :1]) + draws.normal(1, 0, 0.09)
    grounds = ("grass", "grass", "mottled", "asphalt", "speckle", "tiles", "planks", "leaves")
    ground(stage, material(draws, 1, grounds, ("green", "green", "dry", "stone", "road", "wood"))[:, 0])
    _backdrop(stage, eye, xy[:, :1] + 0.5 * size)
    _stand(stage, xy, lift, size, raised)
    spot, yaw = xy[:, None], draws.uniform(1, 0, 2 * math.pi)
    beasts(stage, eye, spot, lift, yaw, size, is_["animal"])
    n = 2  # a second person beside, now and then
    pair = torch.cat([spot, spot + point(draws.uniform(1, -0.3, 0.8), draws.sign(1) * 0.55, zero)[..., :2]], 1)
    both = torch.cat([is_["person"], is_["person"] & draws.chance(1, 0.35)], 1)
    towards = math.pi + draws.normal(n, 0, 0.7)
    sits = draws.chance(n, 0.25)
    seat = draws.uniform(n, 0.05, 0.35)
    persons(stage, eye, pair, seat * sits, towards, draws.uniform(n, 1.5, 1.9), sits, both)
    stool = point(draws.uniform(n, 0.2, 0.3), draws.uniform(n, 0.25, 0.8), 0.5 * seat + 0.16)
    wood = material(draws, n, ("wood", "plain", "speckle"), ("wood", "stone", "any"))
    at = point(pair[..., 0], pair[..., 1], 0.5 * seat + 0.16)
    stage.put("box", at, stool, turn(towards), wood, both & sits)
    perched = lift + 0.42 * size
    birds(stage, point(xy[:, :1], zero, perched), yaw, size, draws.chance(1, 0.2), is_["bird"])
    _plant(stage, xy, lift, size, is_["plant"])
    _heap(stage, eye, xy, lift, size, is_)
    _bystanders(stage, eye, xy)
    view = View(eye, draws.normal(1, 0, 0.12), pitch, draws.normal(1, 0, 0.05), **daylight(draws))
    return stage, view._replace(focus_b1=(xy[:, :1].square() + (lift + height - eye_z).square()).sqrt())


def _backdrop(stage: Stage, eye: Tensor, behind: Tensor) -> None:
    """Add a wall, a hedge of bushes or trees behind the subject, at an arm's length or far."""
    draws, zero = stage.draws, torch.zeros_like(behind)
    choice = draws.pick(1, 4)
    far = behind + draws.log_uniform(1, 0.3, 12)
    wall = torch.where(
        draws.chance(1, 0.5)[..., None],
        coat_of_houses(draws, 1),
        material(
            draws,
            1,
            ("plain", "bricks", "planks", "tiles", "mottled", "print"),
            ("wall", "pale", "brick", "wood", "stone"),
        ),
    )
    half = point(zero + 0.2, zero + 60, draws.uniform(1, 1.5, 6) + 0.4 * far)
    yaw = draws.normal(1, 0, 0.25)
    stage.put("box", point(far + 0.4, zero, zero), half, turn(yaw), wall, choice == 0)
    n = 7
    wide = far * draws.uniform(n, 0.12, 0.35)
    y = (torch.arange(n, device=zero.device) - 3) * far * 0.35 + draws.normal(n, 0, 0.1) * far
    bush = point(wide * 0.6, wide, wide * draws.uniform(n, 0.5, 1.6))
    leaf = material(draws, n, ("leaves", "leaves", "grass"), ("green", "green", "dry"), 2.0)
    there = (choice == 1) & draws.chance(n, 0.9)
    stage.put("ellipsoid", point(far + wide, y, 0.5 * bush[..., 2]), bush, turn(0 * y), leaf, there, mark="bush")
    x = far + draws.log_uniform(n, 1, 30)
    xy = torch.stack([x, x * draws.uniform(n, -0.7, 0.7)], -1)
    trees(stage, eye, xy, 0 * x, draws.log_uniform(n, 2.5, 12), (choice == 2) & draws.chance(n, 0.8))


def _stand(stage: Stage, xy: Tensor, lift: Tensor, size: Tensor, raised: Tensor) -> None:
    """Add what a raised subject stands on: a table top, a low wall, a post."""
    draws, zero = stage.draws, torch.zeros_like(lift)
    coat = material(
        draws, 1, ("wood", "wood", "plain", "tiles", "mottled", "bricks"), ("wood", "stone", "pale", "any"), 3.0
    )
    post = draws.chance(1, 0.3)
    at = point(xy[:, :1] + 0.1 * size, zero, lift / 2)
    half = point(size * draws.uniform(1, 0.7, 1.4), size * draws.log_uniform(1, 0.8, 8), lift / 2)
    stage.put("box", at, half, turn(draws.normal(1, 0, 0.3)), coat, raised & ~post)
    thin = size * draws.uniform(1, 0.3, 0.7)
    stage.put("cylinder", at, point(thin, thin, lift / 2), turn(zero), coat, raised & post)


def _plant(stage: Stage, xy: Tensor, lift: Tensor, size: Tensor, there: Tensor) -> None:
    """Add a pot with stems, leaves and flowers."""
    draws, n = stage.draws, 9
    zero = torch.zeros_like(size)
    pot = point(size * 0.3, size * 0.3, size * 0.25)
    clay = material(draws, 1, ("plain", "mottled", "print"), ("brick", "any", "white", "stone"), 3.0)
    potted = draws.chance(1, 0.7)
    stage.put("cylinder", point(xy[:, :1], zero, lift + 0.25 * size), pot, turn(zero), clay, there & potted)
    root = point(xy[:, :1], zero, lift + 0.5 * size * potted).expand(-1, n, -1)
    lean, around = draws.uniform(n, 0.1, 0.9), draws.uniform(n, 0, 2 * math.pi)
    long = size * draws.uniform(n, 0.5, 1.1)
    tip = root + long[..., None] * point(lean.sin() * around.cos(), lean.sin() * around.sin(), lean.cos())
    green = material(draws, n, ("plain", "fur", "mottled"), ("green",), 3.0)
    grows = there & draws.chance(n, 0.85)
    limb(stage, root, tip, 0.015 * size + 0 * long, green, grows, "cylinder")
    flower = draws.chance(1, 0.5)
    bloom = material(draws, n, ("plain", "mottled"), ("vivid", "white"), 3.0)
    disc = size * draws.uniform(n, 0.08, 0.18)
    facing = turn(around + math.pi / 2, lean)
    stage.put("ellipsoid", tip, point(disc, disc, 0.35 * disc), facing, bloom, grows & flower)
    leaf = size * draws.uniform(n, 0.12, 0.3)
    at = torch.lerp(root, tip, draws.uniform(n, 0.4, 0.95)[..., None])
    axes = turn(draws.uniform(n, 0, 6.28), draws.uniform(n, 0.2, 1.2))
    stage.put("ellipsoid", at, point(leaf, 0.4 * leaf, 0.06 * leaf), axes, green, grows)
    bunch = cut(draws, zero + 7, zero + 7, 0.85)
    half, middle = point(0.7 * size, 0.7 * size, zero + 1), point(xy[:, :1], zero, lift + size)
    for _ in range(2):
        axes = turn(draws.uniform(1, 0, 6.28), draws.uniform(1, 0.6, 1.5))
        stage.put("leaves", middle, half, axes, green[:, :1], there & ~flower, cut=bunch)


def _heap(stage: Stage, eye: Tensor, xy: Tensor, lift: Tensor, size: Tensor, is_: dict[str, Tensor]) -> None:
    """Add one object of two or three parts, or a heap of small ones: fruit, stones, boxes."""
    draws, zero = stage.draws, torch.zeros_like(size)
    one = is_["object"]
    coat, other = (material(draws, 1, OBJECT_KINDS, OBJECT_PALETTES, scale=4.0) for _ in "ab")
    shine = draws.uniform(1, 0, 1)
    coat = changed(coat, one, shine=shine)
    wide, tall = size * draws.uniform(1, 0.25, 0.7), size * draws.uniform(1, 0.25, 0.6)
    at = lambda z: point(xy[:, :1], zero, lift + z)  # noqa: E731
    yaw, tilt = draws.uniform(1, 0, 6.28), torch.where(draws.chance(1, 0.3), draws.uniform(1, -0.5, 0.5), 0.0)
    body, shape = point(wide, wide * draws.uniform(1, 0.5, 1.0), tall), draws.pick(1, 3)
    for number, kind in enumerate(("box", "ellipsoid", "cylinder")):
        stage.put(kind, at(tall), body, turn(yaw, tilt), coat, one & (shape == number), mark="thing")
    neck, up = wide * draws.uniform(1, 0.2, 0.8), tall * draws.uniform(1, 0.15, 0.6)
    top = draws.pick(1, 4)
    for number, kind in enumerate(("box", "ellipsoid", "cylinder")):
        stage.put(kind, at(2 * tall + up * 0.8), point(neck, neck, up), turn(yaw), other, one & (top == number))
    ring = point(0.06 * size, wide * 0.5, tall * 0.5)  # a handle
    side = stage.where(xy[:, None], yaw, point(wide * 1.05, zero, lift + tall))
    stage.put("ellipsoid", side, ring, turn(yaw), other, one & draws.chance(1, 0.3))
    for number, kind in enumerate(("box", "ellipsoid", "cylinder")):
        n = 8
        spread = size * 0.7
        spot = point(xy[:, :1] + draws.normal(n, 0, 0.7) * spread, draws.normal(n, 0, 0.8) * spread, lift + 0 * spread)
        spot = spot + point(0 * spread, 0 * spread, draws.chance(n, 0.25) * 0.3 * size)
        grain = size * draws.log_uniform(n, 0.2, 0.6)
        there = (is_["heap"] | (one & draws.chance(1, 0.4) & draws.chance(n, 0.3))) & draws.chance(n, 0.75)
        things(stage, kind, spot, grain, eye, 0.1 * size, there & (draws.pick(1, 4) != number))


def _bystanders(stage: Stage, eye: Tensor, xy: Tensor) -> None:
    """Add people and a bench further back, and leaves of grass or a branch nearer than the subject."""
    draws, n = stage.draws, 3
    x = xy[:, :1] + draws.log_uniform(n, 1.5, 20)
    spot = torch.stack([x, x * draws.uniform(n, -0.5, 0.5)], -1)
    there = draws.chance(n, 0.4) & draws.chance(1, 0.4)
    none = torch.zeros_like(there)
    persons(stage, eye, spot, 0 * x, draws.uniform(n, 0, 6.28), draws.uniform(n, 1.4, 1.9), none, there)
