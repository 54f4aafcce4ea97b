"""Scenes for the renderer: a layout chosen and built for each image, turned into camera axes and float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datool.errors import lookup
from datool.render import camera_work, clutter, finish, weather
from datool.render.aerial import aerial
from datool.render.close_ups import close_up
from datool.render.draws import COLUMN, Draws
from datool.render.homes import home
from datool.render.look import Look
from datool.render.open_land import landscape
from datool.render.props import Stage
from datool.render.roads import road
from datool.render.rooms import indoor
from datool.render.skies import sky
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
    tone_b5: Tensor | None = None  # see film.tone

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


class Layout(NamedTuple):
    """A kind of scene.

    Args:
        family: what it belongs to.
        first: its share of the first scene set, which knew of four.
        share: of the scenes that ``Look.layouts`` adds.
        distances: how far the things are that it is about, m: nearest, farthest.
        build: what makes it.
    """

    family: str
    first: float
    share: float
    distances: tuple[float, float]
    build: Callable[[Draws], tuple[Stage, View]]


LAYOUTS: dict[str, Layout] = {
    "indoor": Layout("indoor", 0.45, 0.06, (1.0, 4.5), indoor),
    "street": Layout("outdoor", 0.55 * 0.35, 0.04, (3.0, 30.0), street),
    "landscape": Layout("outdoor", 0.45 * 0.35, 0.06, (1.0, 15.0), landscape),
    "table-top": Layout("table-top", 0.2, 0.08, (0.35, 1.2), table_top),
    "road": Layout("outdoor", 0.0, 0.24, (4.0, 40.0), road),
    "home": Layout("indoor", 0.0, 0.22, (1.0, 4.5), home),
    "close-up": Layout("close-up", 0.0, 0.18, (0.5, 3.0), close_up),
    "sky": Layout("sky", 0.0, 0.06, (5.0, 100.0), sky),
    "aerial": Layout("aerial", 0.0, 0.06, (5.0, 60.0), aerial),
}
FAMILIES = tuple(dict.fromkeys(layout.family for layout in LAYOUTS.values()))
LAYOUTS_STREAM = 25


def choose_layouts(seed: int, index_b: Tensor, family: str | None, share: float) -> Tensor:
    """Return (B,) int64: which of ``LAYOUTS`` each image shows; ``share`` of them by the later shares.

    Raises:
        DatoolError: ``family`` is not one of ``FAMILIES``.
    """
    if family is not None:
        lookup(dict.fromkeys(FAMILIES, True), family, "scene family")
    of_family = [family is None or layout.family == family for layout in LAYOUTS.values()]

    def chosen(shares: list[float], stream: int) -> Tensor:
        kept = [share * of for share, of in zip(shares, of_family, strict=True)]
        edges = torch.tensor(kept, dtype=torch.float64, device=index_b.device).cumsum(0)
        return (Draws(seed, index_b, stream).uniform(1) * edges[-1] >= edges[:-1]).sum(1)

    first, later = [layout.first for layout in LAYOUTS.values()], [layout.share for layout in LAYOUTS.values()]
    if not any(share and of for share, of in zip(first, of_family, strict=True)):
        return chosen(later, 0)
    newer = Draws(seed, index_b, LAYOUTS_STREAM).uniform(2)[:, 0] < share
    return torch.where(newer, chosen(later, LAYOUTS_STREAM + 1), chosen(first, 0))


Effect = Callable[[Stage, View, Draws, float], View]
# The fields of ``Look`` that change the stage, in the order in which they do: the stream that each draws from. Hills
# come last, since they lift all that stands on them.
STAGE_EFFECTS: dict[str, tuple[int, Effect]] = {
    "tilt": (27, camera_work.tilt),
    "overhang": (28, camera_work.overhang),
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
    "detail": (31, finish.detail),
    "wear": (21, finish.wear),
    "photos": (22, finish.photos),
}
LENS_STREAM, FOCUS_STREAM, MOTION_STREAM, OTHER_LENS_STREAM, TONE_STREAM, CAMERA_STREAM = 2, 23, 24, 29, 30, 1 << 20


def build(seed: int, index_b: Tensor, layout: str, look: Look, camera: int = 0) -> Scene:
    """Return the scenes of these images, all of one layout, in the axes of the scene's camera number ``camera``."""
    (_, _, _, distances, make) = LAYOUTS[layout]
    stage, view = make(Draws(seed, index_b, stream=1))
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
        view = another(stage, view, draws, (centre, half, axes, active), distances)
    rotation = rotation_of(view)
    to_camera = lambda v: torch.einsum("bij,b...j->b...i", rotation, v)  # noqa: E731
    centre = torch.where(active[..., None], to_camera(centre - view.eye_b3[:, None]), half.new_tensor([0, 0, -AWAY_M]))
    half = torch.where(active[..., None], half, 1.0)
    light, none = view.light_b4, half[:, :0, :1]
    lamp = none.expand(-1, -1, 6) if view.lamp_bl6 is None else view.lamp_bl6
    view_b2, lens_bk, salt_b = _lens(Draws(seed, index_b, LENS_STREAM), view)
    view_b2 = camera_work.lens(view_b2, Draws(seed, index_b, OTHER_LENS_STREAM), look.lens)
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
        focus_b2=_focus(Draws(seed, index_b, FOCUS_STREAM), look.focus, distances, view.focus_b1),
        motion_b4=_motion(Draws(seed, index_b, MOTION_STREAM), look.motion, distances),
        counts=tuple(sum(run.active.shape[1] for run in runs) for runs in stage.shapes.values()),
        passes=passes_of(look),
        tone_b5=_tone(Draws(seed, index_b, TONE_STREAM), look.tone),
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


def _focus(draws: Draws, share: float, distances: tuple[float, float], subject_b1: Tensor | None) -> Tensor:
    """Return (B, 2): the distance in focus, m, and the blur of infinity; 0 is sharp everywhere.

    A picture about one thing is in focus on it, and shallow so much more often.
    """
    blurred, drawn = draws.chance(1, share), draws.log_uniform(1, *distances)
    blur = draws.log_uniform(1, 0.0025, 0.014)
    if subject_b1 is not None:
        blurred, drawn, blur = draws.chance(1, min(1.0, 3.5 * share)), subject_b1, 1.5 * blur
    return torch.cat([drawn, blur * blurred], -1)


def _motion(draws: Draws, share: float, distances: tuple[float, float]) -> Tensor:
    """Return (B, 4): how the camera turned, in picture widths, and stepped, in widths times metres."""
    moved, heading = draws.chance(1, share), draws.uniform(2, 0, 2 * math.pi)
    turned, stepped = draws.log_uniform(1, 0.002, 0.015), draws.log_uniform(1, 0.002, 0.02) * distances[0]
    way = [turned * heading[:, :1].cos(), turned * heading[:, :1].sin()]
    way += [stepped * heading[:, 1:].cos(), stepped * heading[:, 1:].sin()]
    return torch.cat(way, -1) * moved


def _tone(draws: Draws, share: float) -> Tensor:
    """Return (B, 5): see film.tone."""
    columns = [draws.uniform(1, 0.0, 0.12), draws.uniform(1, 0.8, 1.0), draws.log_uniform(1, 0.9, 2.6)]
    return torch.cat([*columns, draws.uniform(1, 0.0, 1.5), draws.chance(1, share) * draws.uniform(1, 0.6, 1.0)], -1)
