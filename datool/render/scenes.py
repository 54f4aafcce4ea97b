"""Scenes for the renderer: a layout chosen and built for each image, turned into camera axes and float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datool.errors import lookup
from datool.render import clutter, finish, weather
from datool.render.draws import COLUMN, Draws
from datool.render.look import Look
from datool.render.open_land import landscape
from datool.render.props import Stage
from datool.render.rooms import indoor
from datool.render.streets import street
from datool.render.table_tops import table_top
from datool.render.viewpoints import another
from datool.render.views import View

AWAY_M = 1e6  # where an unused shape waits: behind the camera, out of every ray's way


class Scene(NamedTuple):
    """A batch of scenes in camera axes (x right, y down, z forward, metres), shapes in the order of ``counts``.

    Shapes are boxes, ellipsoids, cylinders (their axis is local z), cards (flat, local z their normal), then
    ``NUM_PLANES`` planes whose normal is local z and points to the camera's side, then one row of material for the sky.
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
    pose_b34: Tensor  # world (z up) to camera
    cut_bp4: Tensor  # of the cards: see tracing.CUTS
    waves_bw4: Tensor  # hills of the first plane: see terrain; none where W = 0
    lamp_bl6: Tensor  # lights without shadow: position, colour
    focus_b2: Tensor  # the distance in focus, m, and the blur's circle at infinity, a share of the width
    motion_b4: Tensor  # see film.move
    counts: tuple[int, ...]  # of each of props.KINDS_OF_SHAPE
    passes: tuple[str, ...] = ()  # what there may be beyond the first scene set, so that the rest costs nothing

    def map(self, change: Callable[[Tensor], Tensor]) -> Scene:
        """Return the scenes with every tensor changed."""
        values: dict[str, Any] = {k: change(v) if isinstance(v, Tensor) else v for k, v in self._asdict().items()}
        return Scene(**values)

    def has(self, name: str, mark: Tensor) -> bool:
        """Return whether a pass is worth running: it may occur, and ``mark`` is not 0 everywhere.

        While compiling, which cannot look at values, it is whether it may occur.
        """
        return name in self.passes and (torch.compiler.is_compiling() or bool((mark != 0).any()))

    def material(self, name: str, rows: slice) -> Tensor:
        """Return (B, P) one column of the materials."""
        return self.material_bpk[:, rows, COLUMN[name]]


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


Effect = Callable[[Stage, View, Draws, float], View]
# The fields of ``Look`` that change the stage, in the order in which they do: the stream that each draws from. Hills
# come last, since they lift all that stands on them.
STAGE_EFFECTS: dict[str, tuple[int, Effect]] = {
    "foliage": (10, clutter.foliage),
    "fences": (11, clutter.fences),
    "cables": (12, clutter.cables),
    "panes": (13, clutter.panes),
    "glass": (14, finish.glass),
    "mirrors": (15, finish.mirrors),
    "polish": (16, finish.polish),
    "night": (17, weather.night),
    "lamps": (18, weather.lamps),
    "fog": (19, weather.fog),
    "terrain": (20, clutter.terrain),
}
# The fields that change materials when all shapes are there.
COAT_EFFECTS: dict[str, tuple[int, Callable[[Tensor, Tensor, Draws, float], Tensor]]] = {
    "wear": (21, finish.wear),
    "photos": (22, finish.photos),
}
LENS_STREAM, FOCUS_STREAM, MOTION_STREAM, CAMERA_STREAM = 2, 23, 24, 1 << 20
# How far the things that a layout is about are, m: nearest, farthest.
DISTANCES = {"indoor": (1.0, 4.5), "street": (3.0, 30.0), "landscape": (1.0, 15.0), "table-top": (0.35, 1.2)}


def build(seed: int, index_b: Tensor, layout: str, look: Look, camera: int = 0) -> Scene:
    """Return the scenes of these images, all of one layout, in the axes of the scene's camera number ``camera``."""
    stage, view = LAYOUTS[layout][2](Draws(seed, index_b, stream=1))
    chances = asdict(look)
    for name, (stream, effect) in STAGE_EFFECTS.items():
        if chances[name]:
            view = effect(stage, view, Draws(seed, index_b, stream), chances[name])
    every = [(run.centre, run.half, run.axes, run.coat, run.active) for run in stage.runs()]
    centre, half, axes, coat, active = (
        torch.cat([torch.broadcast_to(run[i], (*run[0].shape[:2], *run[i].shape[2:])) for run in every], 1)
        for i in range(5)
    )
    local = torch.einsum("bnij,bnj->bni", axes, view.eye_b3[:, None] - centre)
    active = active & ((local.abs() - half).clamp_min(0).norm(dim=-1) > 0.1)
    planes = [torch.stack([plane[i] for plane in stage.planes], 1) for i in range(3)]
    coat = torch.cat([coat, planes[2]], 1)
    size = torch.cat([half.norm(dim=-1), torch.ones_like(planes[0][..., 0])], 1)
    for name, (stream, change) in COAT_EFFECTS.items():
        if chances[name]:
            coat = change(coat, size, Draws(seed, index_b, stream), chances[name])
    if camera:
        draws = Draws(seed, index_b, CAMERA_STREAM + camera)
        view = another(stage, view, draws, (centre, half, axes, active), DISTANCES[layout])
    rotation = rotation_of(view)
    to_camera = lambda v: torch.einsum("bij,b...j->b...i", rotation, v)  # noqa: E731
    centre = torch.where(active[..., None], to_camera(centre - view.eye_b3[:, None]), half.new_tensor([0, 0, -AWAY_M]))
    half = torch.where(active[..., None], half, 1.0)
    light, none = view.light_b4, half[:, :0, :1]
    lamp = none.expand(-1, -1, 6) if view.lamp_bl6 is None else view.lamp_bl6
    view_b2, lens_bk, salt_b = _lens(Draws(seed, index_b, LENS_STREAM), view)
    return Scene(
        centre_bp3=torch.cat([centre, to_camera(planes[0] - view.eye_b3[:, None])], 1),
        axes_bp33=torch.cat([to_camera(axes), to_camera(planes[1])], 1),
        half_bp3=torch.cat([half, torch.ones_like(planes[0])], 1),
        material_bpk=torch.cat([coat, view.sky_b1k], 1),
        light_b4=torch.cat([to_camera(light[:, :3] - light[:, 3:] * view.eye_b3), light[:, 3:]], -1),
        light_colour_b3=view.light_colour_b3,
        ambient_b3=view.ambient_b3,
        up_b3=rotation[..., 2],
        haze_b3=view.haze_b3,
        fog_b=view.fog_b1[:, 0],
        view_b2=view_b2,
        lens_bk=lens_bk,
        salt_b=salt_b + 7919 * camera,
        pose_b34=torch.cat([rotation, -to_camera(view.eye_b3)[..., None]], -1),
        cut_bp4=torch.cat([none.expand(-1, -1, 4), *(run.cut for run in stage.runs() if run.cut is not None)], 1),
        waves_bw4=none.expand(-1, -1, 4) if stage.waves_bw4 is None else stage.waves_bw4,
        lamp_bl6=torch.cat([to_camera(lamp[..., :3] - view.eye_b3[:, None]), lamp[..., 3:]], -1),
        focus_b2=_focus(Draws(seed, index_b, FOCUS_STREAM), look.focus, DISTANCES[layout]),
        motion_b4=_motion(Draws(seed, index_b, MOTION_STREAM), look.motion, DISTANCES[layout]),
        counts=tuple(sum(run.active.shape[1] for run in runs) for runs in stage.shapes.values()),
        passes=passes_of(look),
    ).map(lambda v: v.float() if v.is_floating_point() else v)


def passes_of(look: Look) -> tuple[str, ...]:
    """Return the effects that may occur; "second" stands for rays that go on from mirrors and through glass."""
    second = any((look.panes, look.glass, look.mirrors, look.polish))
    return (*(name for name, chance in asdict(look).items() if chance), *(["second"] if second else []))


def rotation_of(view: View) -> Tensor:
    """Return (B, 3, 3): world to camera."""
    cp, sp, cy, sy = view.pitch_b1.cos(), view.pitch_b1.sin(), view.yaw_b1.cos(), view.yaw_b1.sin()
    forward = torch.cat([cp * cy, cp * sy, sp], -1)
    right = torch.cat([sy, -cy, torch.zeros_like(cp)], -1)
    down = torch.linalg.cross(forward, right)
    cr, sr = view.roll_b1.cos(), view.roll_b1.sin()
    return torch.stack([cr * right + sr * down, cr * down - sr * right, forward], 1)


def _lens(draws: Draws, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Return field of view and shift (B, 2), the lens (B, 8), and the grain's salt (B,) int32."""
    fov = torch.where(draws.chance(1, 0.1), 30.0, draws.uniform(1, 40, 90)) * (math.pi / 180)
    shift = torch.where(draws.chance(1, 0.7), 0.0, draws.normal(1, 0, 0.02))
    warm = draws.normal(1, 0, 0.07)
    columns = [
        *(draws.log_uniform(1, 0.55, 1.7) * view.dim_b1, draws.normal(1, 1, 0.12).clamp(0.7, 1.4)),
        *(draws.uniform(1, 0, 0.9), draws.uniform(1, 0, 0.5) ** 2),
        torch.where(draws.chance(1, 0.6), draws.uniform(1, 0.05, 0.14), draws.uniform(1, 0.14, 0.25)),
        *(draws.log_uniform(1, 0.001, 0.02), (1 + warm) * (1 + 0.3 * draws.normal(1, 0, 0.07)), 1 - warm),
    ]
    return torch.cat([fov, shift], -1), torch.cat(columns, -1), draws.uniform(1, 0, 2**30)[:, 0].to(torch.int32)


def _focus(draws: Draws, share: float, distances: tuple[float, float]) -> Tensor:
    """Return (B, 2): the distance in focus, m, and the blur of infinity; 0 is sharp everywhere."""
    blurred = draws.chance(1, share)
    return torch.cat([draws.log_uniform(1, *distances), draws.log_uniform(1, 0.0025, 0.014) * blurred], -1)


def _motion(draws: Draws, share: float, distances: tuple[float, float]) -> Tensor:
    """Return (B, 4): how the camera turned, in picture widths, and stepped, in widths times metres."""
    moved, heading = draws.chance(1, share), draws.uniform(2, 0, 2 * math.pi)
    turned, stepped = draws.log_uniform(1, 0.002, 0.015), draws.log_uniform(1, 0.002, 0.02) * distances[0]
    way = [turned * heading[:, :1].cos(), turned * heading[:, :1].sin()]
    way += [stepped * heading[:, 1:].cos(), stepped * heading[:, 1:].sin()]
    return torch.cat(way, -1) * moved
