"""The renderer: numbered scenes to pictures with exact planar depth, in pure torch on CPU or CUDA.

A picture is a function of (seed, index, size, look, camera): draws come from a counter (``draws.Draws``), noise from a
lattice hash. Scenes are built in double precision (``scenes``), rays are cast (``tracing``), surfaces lit (``shading``)
and the light is turned into a picture (``film``), which never changes depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from datool.errors import DatoolError
from datool.render.film import develop
from datool.render.look import Look
from datool.render.photos import Photos
from datool.render.scenes import LAYOUTS, Scene, build, choose_layouts
from datool.render.shading import shade
from datool.render.tiles import blocks
from datool.render.tracing import FAR_M, rays, trace

MAX_TEMPORARY = 1 << 26  # floats a temporary may hold on CUDA; on CPU one image a pass is fastest
SCENES_AT_ONCE = 256


@dataclass(frozen=True)
class Rendered:
    """Pictures and what is exactly true of them.

    Args:
        image_b3hw: uint8 RGB.
        depth_bhw: float32 planar depth in metres at pixel centres; +inf is sky.
        camera_b4: fx, fy, cx, cy in pixels; pixel (0, 0)'s centre is (0.5, 0.5).
        pose_b34: world (metres, z up) to camera (x right, y down, z forward); the cameras of a scene share the world.
    """

    image_b3hw: Tensor
    depth_bhw: Tensor
    camera_b4: Tensor
    pose_b34: Tensor


def render(
    seed: int,
    indices: Sequence[int] | Tensor,
    height_px: int,
    width_px: int,
    device: str | torch.device = "cpu",
    family: str | None = None,
    compiled: bool = False,
    look: Look | None = None,
    camera: int = 0,
    photos: Photos | None = None,
) -> Rendered:
    """Return the pictures ``indices`` of the endless set ``seed``.

    Each is a function of (seed, index, size, family, look, camera, photos) alone: not of its neighbours, of torch's
    generators or of the device (draws are equal bit for bit, pixels to rounding).

    Args:
        seed: any Python int; taken modulo 2**64.
        indices: (B,) which images.
        height_px, width_px: at least 8.
        device: where to render; the results stay there.
        family: a name of ``scenes.FAMILIES``, or None for a mixture.
        compiled: run the inner functions through ``torch.compile`` (minutes at first, cached on disk by torch). On a
            CPU this pays for the plain look only: compiled code cannot leave out what a picture does not show.
        look: which effects occur and how often; ``Look()``, all of them, by default. ``Look.plain()`` is the first
            scene set, bit for bit.
        camera: 0, or the number of another camera in the same scene, a few steps aside.
        photos: pictures to be laid on surfaces (see ``Photos.load``), on the same device.
    Raises:
        DatoolError: unknown family, no index, a size below 8 pixels, or a camera below 0.
    """
    if min(height_px, width_px) < 8:
        raise DatoolError(f"cannot render {height_px}x{width_px}: got a side below 8 pixels.")
    if camera < 0:
        raise DatoolError(f"cannot render camera {camera}: expected 0 or above.")
    index_b = torch.as_tensor(indices, dtype=torch.int64).to(device)
    if index_b.ndim != 1 or not len(index_b):
        raise DatoolError(f"cannot render images {tuple(index_b.shape)}: expected a non-empty row of indices.")
    b, size = len(index_b), (height_px, width_px)
    image = torch.empty(b, 3, *size, dtype=torch.uint8, device=device)
    depth, lens, pose = (torch.empty(b, *shape, device=device) for shape in (size, (4,), (3, 4)))
    step = 1
    if index_b.device.type != "cpu":
        step = _power_of_two(MAX_TEMPORARY // (12 * size[0] * size[1]) // 2 + 1)
    with torch.no_grad():
        draw = _compiled() if compiled else picture
        look = look or Look()
        layout_b = choose_layouts(seed, index_b, family, look.layouts)
        for number, layout in enumerate(LAYOUTS):
            for rows in (layout_b == number).nonzero()[:, 0].split(SCENES_AT_ONCE):
                if not len(rows):
                    continue
                scene = build(seed, index_b[rows], layout, look, camera)
                for at in range(0, len(rows), step):
                    into = rows[at : at + step]
                    take = torch.arange(at, at + len(into), device=rows.device)
                    if compiled:  # few batch sizes, so few compilations: the last one is repeated up to a power of two
                        take = torch.arange(at, at + _power_of_two(len(into)), device=rows.device)
                        take = take.clamp_max(len(rows) - 1)
                    part = scene.map(partial(torch.index_select, dim=0, index=take))
                    camera_b4 = cameras(part.view_b2, height_px, width_px)
                    with torch._dynamo.config.patch(recompile_limit=256) if compiled else nullcontext():
                        made = draw(part, camera_b4, height_px, width_px, photos)
                    for whole, some in zip((image, depth, lens, pose), (*made, camera_b4, part.pose_b34), strict=True):
                        whole[into] = some[: len(into)]
    return Rendered(image, depth, lens, pose)


def _power_of_two(n: int) -> int:
    """Return the smallest power of two from ``n`` on."""
    return 1 << (n - 1).bit_length()


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(picture, fullgraph=True, dynamic=False)


def cameras(view_b2: Tensor, height_px: int, width_px: int) -> Tensor:
    """Return (B, 4) fx, fy, cx, cy in pixels, of (field of view in rad, shift of the principal point as a share)."""
    focal = width_px / 2 / (view_b2[:, 0] / 2).tan()
    shift = view_b2[:, 1]
    return torch.stack([focal, focal, width_px * (0.5 + shift), height_px * (0.5 - shift)], -1)


def picture(
    scene: Scene, camera_b4: Tensor, height_px: int, width_px: int, photos: Photos | None = None
) -> tuple[Tensor, Tensor]:
    """Return (B, 3, H, W) uint8 and (B, H, W) depth of explicit scenes seen by explicit cameras."""
    ray_b3n = rays(camera_b4, height_px, width_px)
    tiles_tk = blocks(height_px, width_px, ray_b3n.device)
    depth_bn, winner_bn = trace(scene, ray_b3n, tiles_tk=tiles_tk)
    light_b3n = shade(scene, ray_b3n, depth_bn, winner_bn, camera_b4[:, 0], photos, tiles_tk)
    image = develop(scene, light_b3n, depth_bn, height_px, width_px)
    sky = torch.full_like(depth_bn, torch.inf)
    return image, torch.where(depth_bn < FAR_M, depth_bn, sky).view(-1, height_px, width_px)
