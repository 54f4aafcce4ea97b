"""Scenes for the renderer: a layout chosen and built for each image, turned into camera axes and float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from datool.data.synthetic.draws import Draws
from datool.data.synthetic.layouts import View, indoor, landscape, street, table_top
from datool.data.synthetic.props import Stage
from datool.errors import lookup

AWAY_M = 1e6  # where an unused shape waits: behind the camera, out of every ray's way


class Scene(NamedTuple):
    """A batch of scenes in camera axes (x right, y down, z forward, metres), shapes in the order of ``counts``.

    Shapes are boxes, ellipsoids, cylinders (their axis is local z), then ``NUM_PLANES`` planes whose normal is local z
    and points to the camera's side, then one row of material for the sky.
    """

    centre_bp3: Tensor
    axes_bp33: Tensor  # rows are the local axes
    half_bp3: Tensor  # half sizes; unused for planes
    material_bpk: Tensor  # one row more: the sky
    light_b4: Tensor  # position and 1, or direction and 0
    light_colour_b3: Tensor
    ambient_b3: Tensor
    up_b3: Tensor
    haze_b3: Tensor  # the colour of the horizon
    fog_b: Tensor  # extinction, 1/m
    view_b2: Tensor  # horizontal field of view (rad), shift of the principal point (share of the size)
    lens_bk: Tensor  # exposure, gamma, contrast, vignette, blur, grain, red gain, blue gain
    salt_b: Tensor  # int32, for grain
    counts: tuple[int, int, int]

    def map(self, change: Callable[[Tensor], Tensor]) -> Scene:
        """Return the scenes with every tensor changed."""
        return Scene(*(change(v) for v in self[:-1]), counts=self.counts)  # type: ignore[arg-type, misc]


FAMILIES = ("indoor", "outdoor", "table-top")
# name: what it belongs to, its share of the family, what builds it
LAYOUTS: dict[str, tuple[str, float, Callable[[Draws], tuple[Stage, View]]]] = {
    "indoor": ("indoor", 1.0, indoor),
    "street": ("outdoor", 0.55, street),
    "landscape": ("outdoor", 0.45, landscape),
    "table-top": ("table-top", 1.0, table_top),
}
FAMILY_SHARES = {"indoor": 0.45, "outdoor": 0.35, "table-top": 0.20}


def choose_layouts(seed: int, index_b: Tensor, family: str | None) -> Tensor:
    """Return (B,) int64: which of ``LAYOUTS`` each image shows.

    Raises:
        DatoolError: ``family`` is not one of ``FAMILY_SHARES``.
    """
    if family is not None:
        lookup(FAMILY_SHARES, family, "scene family")
    shares = [
        share * (FAMILY_SHARES[of] if family is None else float(of == family)) for of, share, _ in LAYOUTS.values()
    ]
    edges = torch.tensor(shares, dtype=torch.float64, device=index_b.device).cumsum(0)
    return (Draws(seed, index_b, stream=0).uniform(1) >= edges[:-1]).sum(1)


def build(seed: int, index_b: Tensor, layout: str) -> Scene:
    """Return the scenes of these images, all of one layout, in camera axes."""
    draws = Draws(seed, index_b, stream=1)
    stage, view = LAYOUTS[layout][2](draws)
    lens = Draws(seed, index_b, stream=2)
    cp, sp, cy, sy = view.pitch_b1.cos(), view.pitch_b1.sin(), view.yaw_b1.cos(), view.yaw_b1.sin()
    zero = torch.zeros_like(cp)
    forward = torch.cat([cp * cy, cp * sy, sp], -1)
    right = torch.cat([sy, -cy, zero], -1)
    down = torch.linalg.cross(forward, right)
    cr, sr = view.roll_b1.cos(), view.roll_b1.sin()
    rotation = torch.stack([cr * right + sr * down, cr * down - sr * right, forward], 1)  # world to camera
    every = [shape for shapes in stage.shapes.values() for shape in shapes]
    centre, half, axes, coat, active = (
        torch.cat([torch.broadcast_to(shape[i], (*shape[0].shape[:2], *shape[i].shape[2:])) for shape in every], 1)
        for i in range(5)
    )
    boxes, ellipsoids, cylinders = (sum(s[0].shape[1] for s in shapes) for shapes in stage.shapes.values())
    planes = [torch.stack([plane[i] for plane in stage.planes], 1) for i in range(3)]
    local = torch.einsum("bnij,bnj->bni", axes, view.eye_b3[:, None] - centre)
    active = active & ((local.abs() - half).clamp_min(0).norm(dim=-1) > 0.1)
    to_camera = lambda v: torch.einsum("bij,b...j->b...i", rotation, v)  # noqa: E731
    centre = torch.where(active[..., None], to_camera(centre - view.eye_b3[:, None]), half.new_tensor([0, 0, -AWAY_M]))
    half = torch.where(active[..., None], half, 1.0)
    light = view.light_b4
    seen = to_camera(light[:, :3] - light[:, 3:] * view.eye_b3)
    fov = torch.where(lens.chance(1, 0.1), 30.0, lens.uniform(1, 40, 90)) * (math.pi / 180)
    shift = torch.where(lens.chance(1, 0.7), 0.0, lens.normal(1, 0, 0.02))
    warm = lens.normal(1, 0, 0.07)
    columns = [
        *(lens.log_uniform(1, 0.55, 1.7), lens.normal(1, 1, 0.12).clamp(0.7, 1.4)),
        *(lens.uniform(1, 0, 0.9), lens.uniform(1, 0, 0.5) ** 2),
        torch.where(lens.chance(1, 0.6), lens.uniform(1, 0.05, 0.14), lens.uniform(1, 0.14, 0.25)),
        *(lens.log_uniform(1, 0.001, 0.02), (1 + warm) * (1 + 0.3 * lens.normal(1, 0, 0.07)), 1 - warm),
    ]
    return Scene(
        torch.cat([centre, to_camera(planes[0] - view.eye_b3[:, None])], 1),
        torch.cat([to_camera(axes), to_camera(planes[1])], 1),
        torch.cat([half, torch.ones_like(planes[0])], 1),
        torch.cat([coat, planes[2], view.sky_b1k], 1),
        torch.cat([seen, light[:, 3:]], -1),
        *(view.light_colour_b3, view.ambient_b3, rotation[..., 2], view.haze_b3, view.fog_b1[:, 0]),
        *(torch.cat([fov, shift], -1), torch.cat(columns, -1)),
        lens.uniform(1, 0, 2**30)[:, 0].to(torch.int32),
        (boxes, ellipsoids, cylinders),
    ).map(lambda v: v.float() if v.is_floating_point() else v)
