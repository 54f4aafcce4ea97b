"""People who stand, walk, sit or raise an arm; four-legged animals of several kinds; birds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import material
from datool.render.limbs import aim, limb
from datool.render.props import Stage, away, point, turn

SKIN, CLOTH = ("fur", "pale", "skin"), ("plain", "mottled", "stripes", "print", "checker")


def persons(
    stage: Stage, eye: Tensor, xy: Tensor, floor: Tensor, yaw: Tensor, tall: Tensor, sits: Tensor, present: Tensor
) -> None:
    """Add n people at ``xy`` (B, n, 2) who face ``yaw`` and would stand ``tall`` m; those that ``sits`` sit.

    15 ellipsoids each: head and hair, trunk, limbs of two parts, feet.
    """
    draws, n = stage.draws, present.shape[1]
    bound = point(0.25 * tall, 0.25 * tall, 0.5 * tall)
    there = present & (away(eye, point(xy[..., 0], xy[..., 1], floor + 0.5 * tall), yaw, bound) > 0.35)
    zero = torch.zeros_like(tall)
    top, legs = (material(draws, n, CLOTH, ("any", "vivid", "dark", "grey", "white"), 2.5) for _ in range(2))
    legs = torch.where(
        draws.chance(n, 0.7)[..., None], material(draws, n, ("plain", "mottled"), ("dark", "grey")), legs
    )
    skin, hair = material(draws, n, ("plain",), ("skin",)), material(draws, n, ("fur", "plain"), ("dark", "fur"), 3.0)
    shoes = material(draws, n, ("plain",), ("dark", "white", "any"))
    sleeves = torch.where(draws.chance(n, 0.6)[..., None], top, skin)
    stride = torch.where(draws.chance(n, 0.5), draws.uniform(n, 0.25, 0.6), draws.uniform(n, 0.0, 0.1)) * ~sits
    lean, turned = draws.normal(n, 0.03, 0.08), draws.normal(n, 0, 0.5)
    build = draws.uniform(n, 0.85, 1.25)
    hip_z = torch.where(sits, draws.uniform(n, 0.25, 0.3), 0.02 + 0.5 * stride.cos())  # the front foot stands
    at = lambda x, y, z: stage.where(xy, yaw, point(x, y, z) * tall[..., None] + point(zero, zero, floor))  # noqa: E731
    neck_x, neck_z = 0.3 * lean.sin(), hip_z + 0.3 * lean.cos()
    look = yaw + turned
    head = at(neck_x + 0.02, zero, neck_z + 0.11)
    size = tall[..., None]
    stage.put("ellipsoid", head, size * tall.new_tensor([0.055, 0.044, 0.068]), turn(look), skin, there)
    behind = head + point(-0.012 * look.cos() * tall, -0.012 * look.sin() * tall, 0.014 * tall)
    stage.put("ellipsoid", behind, size * tall.new_tensor([0.054, 0.05, 0.064]), turn(look, 0.0), hair, there)
    axes = turn(yaw - math.pi / 2, -lean, math.pi / 2)
    thick = point(0.07 * build, 0.115 * build, zero + 0.19) * size
    stage.put("ellipsoid", at(neck_x / 2, zero, (hip_z + neck_z) / 2), thick, axes, top, there)
    stage.put(
        "ellipsoid", at(neck_x, zero, neck_z - 0.035), size * tall.new_tensor([0.055, 0.13, 0.05]), axes, top, there
    )
    stage.put(
        "ellipsoid", at(zero, zero, hip_z), point(0.075 * build, 0.1 * build, zero + 0.075) * size, axes, legs, there
    )
    for side in (-1, 1):
        swing = side * stride
        bend = draws.uniform(n, 0.0, 0.5) * (stride > 0.1)
        hip = at(zero, zero + side * 0.055, hip_z)
        knee_x = torch.where(sits, 0.25, 0.25 * swing.sin())
        knee_z = torch.where(sits, hip_z + 0.01, hip_z - 0.25 * swing.cos())
        foot_x = torch.where(sits, 0.27, knee_x + 0.25 * (swing - bend).sin())
        foot_z = torch.where(sits, 0.02, (knee_z - 0.25 * (swing - bend).cos()).clamp_min(0.02))
        wide = side * torch.where(sits, 0.08, 0.06)
        knee, foot = at(knee_x, wide, knee_z), at(foot_x, wide, foot_z)
        limb(stage, hip, knee, 0.052 * build * tall, legs, there)
        limb(stage, knee, foot, 0.036 * build * tall, legs, there)
        limb(stage, foot, at(foot_x + 0.07, wide * 1.2, foot_z), 0.025 * tall, shoes, there)
        raised = draws.chance(n, 0.12)
        arm = torch.where(raised, draws.uniform(n, 1.2, 2.8), -swing * 0.8 + draws.uniform(n, -0.1, 0.4))
        fold = torch.where(sits, draws.uniform(n, 0.6, 1.5), draws.uniform(n, 0.1, 0.9))
        shoulder = at(neck_x, zero + side * 0.135 * build, neck_z - 0.04)
        elbow_x, elbow_z = neck_x + 0.17 * arm.sin(), neck_z - 0.04 - 0.17 * arm.cos()
        elbow = at(elbow_x, side * (0.15 * build + 0.02), elbow_z)
        hand_x, hand_z = elbow_x + 0.17 * (arm + fold).sin(), elbow_z - 0.17 * (arm + fold).cos()
        limb(stage, shoulder, elbow, 0.032 * build * tall, top, there)
        limb(stage, elbow, at(hand_x, side * draws.uniform(n, 0.05, 0.16), hand_z), 0.025 * tall, sleeves, there)


# in lengths of the body: leg, girth, neck, its angle to the ground (rad), head, muzzle, ear, tail
BEASTS: dict[str, tuple[float, ...]] = {
    "dog": (0.45, 0.17, 0.22, 0.9, 0.12, 0.13, 0.1, 0.35),
    "cat": (0.32, 0.15, 0.1, 0.7, 0.12, 0.05, 0.1, 0.55),
    "horse": (0.62, 0.19, 0.42, 0.9, 0.1, 0.24, 0.07, 0.4),
    "cow": (0.42, 0.24, 0.22, 0.3, 0.13, 0.17, 0.1, 0.45),
    "sheep": (0.32, 0.28, 0.14, 0.6, 0.1, 0.12, 0.09, 0.1),
    "bear": (0.36, 0.28, 0.12, 0.1, 0.16, 0.13, 0.06, 0.05),
    "elephant": (0.5, 0.32, 0.12, 0.2, 0.2, 0.3, 0.22, 0.25),
}


def beasts(stage: Stage, eye: Tensor, xy: Tensor, floor: Tensor, yaw: Tensor, size: Tensor, present: Tensor) -> None:
    """Add n animals of body length ``size`` (B, n) at ``xy`` (B, n, 2) that look to ``yaw``: 17 shapes each."""
    draws, n = stage.draws, present.shape[1]
    row = torch.tensor(list(BEASTS.values()), dtype=torch.float64, device=yaw.device)[draws.pick(n, len(BEASTS))]
    leg, girth, neck, rise, head, muzzle, ear, tail = (draws.uniform(n, 0.85, 1.15) * v for v in row.unbind(-1))
    lies = draws.chance(n, 0.15)
    leg = torch.where(lies, 0.02, leg)
    zero, back = torch.zeros_like(leg), leg + 0.8 * girth
    bound = size[..., None] * yaw.new_tensor([0.8, 0.35, 0.5])
    middle = point(xy[..., 0], xy[..., 1], floor + back * size)
    there = present & (away(eye, middle, yaw, bound) > 0.25 * size)
    coats = [material(draws, n, ("fur", "fur", "mottled", "plain"), ("fur", "fur", "grey", "dark"), 2.0) for _ in "ab"]
    main, other = coats[0], torch.where(draws.chance(n, 0.5)[..., None], coats[1], coats[0])
    at = lambda x, y, z: stage.where(  # noqa: E731
        xy, yaw, point(x, y, z) * size[..., None] + point(zero, zero, floor)
    )
    limb(stage, at(zero - 0.3, zero, back), at(zero + 0.3, zero, back), girth * size, main, there)
    limb(stage, at(zero + 0.2, zero, back), at(zero + 0.36, zero, back + 0.04), girth * 1.05 * size, main, there)
    limb(stage, at(zero - 0.4, zero, back), at(zero - 0.2, zero, back + 0.02), girth * 0.98 * size, other, there)
    rise = rise + draws.normal(n, 0, 0.3)  # it grazes, or looks up
    aside = draws.normal(n, 0, 0.35)
    base_x, base_z = 0.42 + zero, back + 0.4 * girth
    head_x, head_y = base_x + neck * rise.cos(), neck * aside.sin()
    head_z = (base_z + neck * rise.sin()).maximum(head)
    limb(stage, at(base_x - 0.05, zero, base_z), at(head_x, head_y, head_z), 0.75 * head * size, main, there)
    nod = rise.clamp_max(0) * 0.6 - 0.45
    look = point(nod.cos() * aside.cos(), nod.cos() * aside.sin(), nod.sin())

    def ahead(share: Tensor) -> Tensor:
        return at(head_x + share * look[..., 0], head_y + share * look[..., 1], head_z + share * look[..., 2])

    limb(stage, ahead(-0.3 * head), ahead(0.7 * head), 0.85 * head * size, main, there)
    limb(stage, ahead(0.6 * head), ahead(0.6 * head + muzzle), 0.5 * head * size, other, there)
    for side in (-1, 1):
        root = at(head_x - 0.4 * head, head_y + side * 0.6 * head, head_z + 0.5 * head)
        tip = at(head_x - 0.5 * head, head_y + side * (0.7 * head + 0.4 * ear), head_z + 0.5 * head + ear)
        limb(stage, root, tip, 0.35 * head * size, other, there, flat=0.5)
    hang = draws.uniform(n, -1.2, 0.9)
    root = at(zero - 0.48, zero, back + 0.4 * girth)
    limb(
        stage,
        root,
        at(-0.48 - tail * hang.cos(), 0.3 * tail * aside, (back + 0.4 * girth + tail * hang.sin()).clamp_min(0.03)),
        0.04 * size,
        other,
        there,
    )
    stride = torch.where(draws.chance(n, 0.4), 0.5, 0.1)
    thick = draws.uniform(n, 0.2, 0.34) * girth
    for end in (-0.38, 0.34):
        for side in (-1, 1):
            swing = stride * draws.uniform(n, -1, 1)
            hip = at(end + zero, side * 0.55 * girth, back - 0.3 * girth)
            knee = at(end + 0.5 * leg * swing + zero, side * 0.55 * girth, 0.55 * leg + 0.1 * girth)
            foot = at(end + 0.8 * leg * swing - 0.1 * leg, side * 0.55 * girth, zero + 0.01)
            limb(stage, hip, knee, 1.5 * thick * size, main, there)
            limb(stage, knee, foot, 0.85 * thick * size, other, there)


def birds(stage: Stage, centre: Tensor, yaw: Tensor, size: Tensor, flies: Tensor, present: Tensor) -> None:
    """Add n birds of body length ``size`` (B, n) about ``centre`` (B, n, 3), with their wings spread if they fly."""
    draws, n = stage.draws, present.shape[1]
    zero, one = torch.zeros_like(size), torch.ones_like(size)
    coat, other = (material(draws, n, ("plain", "fur", "mottled"), ("dark", "white", "fur", "any"), 3.0) for _ in "ab")
    climb = draws.normal(n, 0, 0.25) + torch.where(flies, 0.0, 0.5)
    way = point(climb.cos() * yaw.cos(), climb.cos() * yaw.sin(), climb.sin())
    side, length = point(-yaw.sin(), yaw.cos(), zero), size[..., None]
    limb(stage, centre - 0.3 * length * way, centre + 0.25 * length * way, 0.16 * size, coat, present)
    head = centre + length * (0.42 * way + 0.06 * point(zero, zero, one))
    limb(stage, head, head + 0.05 * length * way, 0.11 * size, other, present)
    limb(stage, head + 0.1 * length * way, head + 0.22 * length * way, 0.03 * size, other, present)
    limb(stage, centre - 0.3 * length * way, centre - 0.7 * length * way, 0.1 * size, coat, present, flat=0.25)
    flap = draws.uniform(n, -0.5, 0.8)
    for hand in (-1, 1):
        out = hand * flap.cos()[..., None] * side + flap.sin()[..., None] * point(zero, zero, one)
        reach = torch.where(flies, draws.uniform(n, 0.5, 1.1), 0.12)[..., None] * length
        root, tip = centre + 0.12 * length * way, centre + 2 * reach * (out - 0.1 * way)
        axes = aim(tip - root)
        flat = torch.nn.functional.normalize(
            way - (way * axes[..., 2, :]).sum(-1, keepdim=True) * axes[..., 2, :], dim=-1
        )
        axes = torch.stack([flat, torch.linalg.cross(axes[..., 2, :], flat), axes[..., 2, :]], -2)
        half = point(0.2 * size, 0.03 * size, (tip - root).norm(dim=-1) / 2)
        stage.put("ellipsoid", (root + tip) / 2, half, axes, coat, present)
    standing = present & ~flies
    for apart in (-0.06, 0.06):
        foot = centre + apart * length * side - 0.38 * point(zero, zero, size)
        limb(stage, centre, foot, 0.02 * size, other, standing, "cylinder")
