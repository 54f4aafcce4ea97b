"""Effects of light and air: night, lamps in rooms, fog."""

from __future__ import annotations

import torch
from torch import Tensor

from datool.render.draws import Draws, changed, material
from datool.render.props import Stage, point, turn
from datool.render.views import View, tint


def _mixed(where_b1: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(where_b1.view(-1, *[1] * (other.ndim - 1)), one, other)


def _with_lamps(view: View, place_bl3: Tensor, colour_bl3: Tensor) -> View:
    """Return the view with more lamps."""
    lamps = torch.cat([place_bl3, colour_bl3], -1)
    return view._replace(lamp_bl6=lamps if view.lamp_bl6 is None else torch.cat([view.lamp_bl6, lamps], 1))


def night(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Turn the day to night: outdoors lamps, lit windows and headlights; in a room the windows are dark."""
    dark = draws.chance(1, share)
    if stage.room is not None:
        for kind, place, run in stage.marked("window"):
            black = changed(run.coat, dark.expand_as(run.active), glow=0.02, by_noise=0.3)
            black = torch.cat([torch.where(dark[..., None], 0.04, black[..., :6]), black[..., 6:]], -1)
            stage.shapes[kind][place] = run._replace(coat=black)
        return view
    moon = draws.log_uniform(1, 0.01, 0.08)
    blue = view.haze_b3.new_tensor([[0.7, 0.85, 1.25]])
    sky = view.sky_b1k * torch.cat(
        [torch.full_like(view.sky_b1k[..., :9], 0.012), torch.ones_like(view.sky_b1k[..., 9:])], -1
    )
    view = view._replace(
        light_colour_b3=_mixed(dark, moon * blue, view.light_colour_b3),
        ambient_b3=_mixed(dark, 0.5 * moon * blue, view.ambient_b3),
        haze_b3=_mixed(dark, 0.03 * blue * draws.log_uniform(1, 0.3, 3.0), view.haze_b3),
        sky_b1k=_mixed(dark, sky, view.sky_b1k),
        dim_b1=torch.where(dark, draws.uniform(1, 0.35, 0.8), 1.0),
    )
    for kind, place, run in stage.marked("house"):
        windowed = run.coat[..., 15] > 0.2  # wide joints: the walls between windows
        lit = dark & windowed & draws.chance(run.active.shape[1], 0.8)
        stage.shapes[kind][place] = run._replace(
            coat=changed(run.coat, lit, lit=draws.log_uniform(run.active.shape[1], 0.2, 1.2), a_b=0.25, b_b=0.2)
        )
    return _street_lamps(stage, view, draws, dark) if stage.kerb_b1 is not None else _flash(view, draws, dark)


def _street_lamps(stage: Stage, view: View, draws: Draws, dark: Tensor) -> View:
    """Add four lamps on posts along a street, and the headlights or rear lights of cars."""
    assert stage.kerb_b1 is not None
    n, yes = 4, torch.ones_like(dark)
    x = draws.uniform(1, 1, 9) + draws.uniform(1, 8, 16) * torch.arange(n, device=dark.device)
    side = draws.sign(n) * (stage.kerb_b1 + 0.4)
    tall = draws.uniform(1, 3.2, 7.0).expand(-1, n)
    thin = torch.full_like(x, 0.06)
    metal = material(draws, n, ("plain",), ("dark", "grey"))
    stage.put("cylinder", point(x, side, tall / 2), point(thin, thin, tall / 2), turn(0 * x), metal, dark.expand(-1, n))
    glow = material(draws, n, ("plain",), ("white",), glow=6.0)
    bulb, inward = draws.uniform(1, 0.1, 0.25).expand(-1, n), side - 0.5 * side.sign()
    head = point(x, inward, tall)
    stage.put("ellipsoid", head, point(bulb, bulb * 1.6, bulb * 0.6), turn(0 * x), glow, dark.expand(-1, n))
    for _, _, run in stage.marked("car"):
        red = draws.chance(run.active.shape[1], 0.5)
        for hand in (-1, 1):
            corner = run.half * torch.tensor([-1.0, 0.7 * hand, 0.1], dtype=torch.float64, device=dark.device)
            centre = run.centre + (corner[..., None] * run.axes).sum(-2)
            size = torch.full_like(run.half, 0.1)
            coat = material(draws, 1, ("plain",), ("white",), glow=6.0).expand(-1, red.shape[1], -1)
            coat = changed(coat, red, a_g=0.03, a_b=0.02, b_g=0.03, b_b=0.02, glow=3.0)
            stage.put("ellipsoid", centre, size, run.axes, coat, run.active & dark)
    colour = tint(draws, 0.25, 0.12)[:, None] * draws.uniform(1, 2.5, 6.0)[..., None] * (dark * yes)[..., None]
    return _with_lamps(view, head - point(0 * x, 0 * x, 0.3 + 0 * x), colour.expand(-1, n, -1))


def _flash(view: View, draws: Draws, dark: Tensor) -> View:
    """Light open land by a torch beside the camera and by something warm further off."""
    place = view.eye_b3[:, None] + draws.key_b1.new_tensor([[[0.0, 0.25, 0.25]]]).double()
    far, angle = draws.uniform(1, 4, 15), draws.normal(1, 0, 0.5)
    fire = torch.cat([far * angle.cos(), far * angle.sin(), draws.uniform(1, 0.5, 2.5)], -1)
    white = tint(draws, 0.0, 0.08) * draws.uniform(1, 1.0, 5.0) * dark
    warm = tint(draws, 0.35, 0.05) * draws.uniform(1, 0.5, 4.0) * dark
    return _with_lamps(view, torch.cat([place, fire[:, None]], 1), torch.stack([white, warm], 1))


def lamps(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Add up to three lights to a room, with a round or square fixture at the ceiling; the first light is dimmed."""
    if stage.room is None:
        return view
    n, (low, high) = 3, stage.room
    there = draws.chance(1, share)
    on = there & draws.chance(n, 0.75)
    place = low[:, None, :2] + (high - low)[:, None, :2] * torch.stack([draws.uniform(n, 0.15, 0.9) for _ in "xy"], -1)
    size, flat = draws.uniform(1, 0.06, 0.3).expand(-1, n), torch.full((len(low), n), 0.02).to(low)
    centre = torch.cat([place, high[:, None, 2:].expand(-1, n, -1) - 0.02], -1)
    square = draws.chance(1, 0.4)
    coat = material(draws, n, ("plain",), ("white",), glow=3.0)
    straight = turn(0 * size)
    stage.put("cylinder", centre, point(size, size, flat), straight, coat, on & ~square)
    stage.put("box", centre, point(size * 2, size, flat), straight, coat, on & square)
    colour = tint(draws, 0.12, 0.15)[:, None] * draws.log_uniform(n, 0.4, 2.2)[..., None] * on[..., None]
    dim = torch.where(there, draws.uniform(1, 0.2, 0.7), 1.0)
    view = view._replace(light_colour_b3=view.light_colour_b3 * dim, ambient_b3=view.ambient_b3 * (0.5 + 0.5 * dim))
    return _with_lamps(view, centre - point(0 * size, 0 * size, flat + 0.15), colour)


def fog(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Fill the air: fog or dust outdoors, into which the sky goes too; smoke or steam in a room."""
    thick = draws.chance(1, share)
    thinnest, thickest = (0.008, 0.06) if stage.room is None else (0.02, 0.1)
    density = draws.log_uniform(1, thinnest, thickest)
    if stage.on_table:
        density = density * 2
    sky = torch.lerp(view.sky_b1k[..., :9], view.haze_b3.repeat(1, 3)[:, None], 0.9)
    return view._replace(
        fog_b1=torch.where(thick, density, view.fog_b1),
        sky_b1k=_mixed(thick, torch.cat([sky, view.sky_b1k[..., 9:]], -1), view.sky_b1k),
    )
