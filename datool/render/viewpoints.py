"""Other cameras of a scene: a few steps aside, clear of what stands there, looking at about the same."""

from __future__ import annotations

import torch
from torch import Tensor

from datool.render.draws import Draws
from datool.render.props import Stage
from datool.render.terrain import height
from datool.render.views import View

TRIES = 8


def another(
    stage: Stage,
    view: View,
    draws: Draws,
    shapes: tuple[Tensor, Tensor, Tensor, Tensor],
    distances: tuple[float, float],
) -> View:
    """Return the view from the first of a few drawn places that is free, else from the same place turned.

    Args:
        stage: says where walls and ground are.
        view: of camera 0.
        draws: of this camera.
        shapes: centre, half size, axes (B, P, ...) in the world, and which are there.
        distances: of what the scene is about, nearest and farthest, m.
    """
    (centre, half, axes, active), (near, far) = shapes, distances
    step = draws.normal(TRIES * 3, 0, 0.35 * near).view(-1, TRIES, 3)
    step = step * torch.linspace(1, 0.4, TRIES, dtype=step.dtype, device=step.device)[:, None]  # shyer and shyer
    step = step * step.new_tensor([1.0, 1.0, 0.5])
    eye = view.eye_b3[:, None] + step
    local = torch.einsum("bpij,btpj->btpi", axes, eye[:, :, None] - centre[:, None])
    distance = (local.abs() - half[:, None]).clamp_min(0).norm(dim=-1)
    free = ((distance > 0.12) | ~active[:, None]).all(-1)
    if stage.room is not None:
        low, high = (corner[:, None] for corner in stage.room)
        free &= ((eye > low + 0.1) & (eye < high - 0.1)).all(-1)
    else:
        ground = 0.0 if stage.waves_bw4 is None else height(stage.waves_bw4, eye[..., 0], eye[..., 1])
        slant = stage.planes[0][1][:, 2]  # the ground's normal
        free &= (eye[..., 2] > ground + 0.25) & ((eye * slant[:, None]).sum(-1) > 0.25)
    first = free.to(torch.int8).argmax(1)[:, None]
    moved = torch.where(free.gather(1, first), eye.gather(1, first[..., None].expand(-1, -1, 3))[:, 0], view.eye_b3)
    # it looks at a point on the axis of camera 0
    away = draws.log_uniform(1, near, far)
    cp = view.pitch_b1.cos()
    ahead = torch.cat([cp * view.yaw_b1.cos(), cp * view.yaw_b1.sin(), view.pitch_b1.sin()], -1)
    to = view.eye_b3 + away * ahead - moved
    yaw = torch.atan2(to[:, 1:2], to[:, :1]) + draws.normal(1, 0, 0.06)
    pitch = torch.atan2(to[:, 2:], to[:, :2].norm(dim=-1, keepdim=True)) + draws.normal(1, 0, 0.04)
    return view._replace(eye_b3=moved, yaw_b1=yaw, pitch_b1=pitch, roll_b1=draws.normal(1, 0, 0.04))
