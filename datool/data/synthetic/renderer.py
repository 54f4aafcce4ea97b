"""The renderer: explicit scenes to pictures with exact planar depth, in pure torch on CPU or CUDA.

A ray is ``t * (x, y, 1)`` in camera axes, so the nearest ``t`` *is* planar depth. Every shape is tested at every pixel,
a few shapes at a time so that temporaries stay in cache; normal and texture are then looked up for the winner only. An
image is a function of (seed, index, size): draws come from a counter (``draws.Draws``), noise from a lattice hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from datool.data.synthetic.draws import MATERIAL_COLUMNS
from datool.data.synthetic.scenes import LAYOUTS, Scene, build, choose_layouts
from datool.errors import DatoolError

FAR_M = 5000.0  # beyond is sky
BIG = 1e18
GROUP, GROUP_COMPILED = 4, 16  # shapes tested at once; more make a smaller graph, faster to compile
ID_BITS = 0x7F  # a scene holds at most 127 shapes and planes: the winner's number rides in the depth's lowest bits
MAX_TEMPORARY = 1 << 26  # floats a temporary may hold on CUDA; on CPU one image a pass is fastest
SCENES_AT_ONCE = 64


@dataclass(frozen=True)
class Rendered:
    """Pictures and what is exactly true of them.

    Args:
        image_b3hw: uint8 RGB.
        depth_bhw: float32 planar depth in metres at pixel centres; +inf is sky.
        camera_b4: fx, fy, cx, cy in pixels; pixel (0, 0)'s centre is (0.5, 0.5).
    """

    image_b3hw: Tensor
    depth_bhw: Tensor
    camera_b4: Tensor


def render(
    seed: int,
    indices: Sequence[int] | Tensor,
    height_px: int,
    width_px: int,
    device: str | torch.device = "cpu",
    family: str | None = None,
    compiled: bool = False,
) -> Rendered:
    """Return the pictures ``indices`` of the endless set ``seed``.

    Each is a function of (seed, index, size, family) alone: not of its neighbours, of torch's generators or of the
    device (draws are equal bit for bit, pixels to rounding).

    Args:
        seed: any Python int; taken modulo 2**64.
        indices: (B,) which images.
        height_px, width_px: at least 8.
        device: where to render; the results stay there.
        family: "indoor", "outdoor", "table-top", or None for a mixture.
        compiled: run the inner functions through ``torch.compile`` (minutes at first, cached on disk by torch; then
            about three times the speed on CPU).
    Raises:
        DatoolError: unknown family, no index, or a size below 8 pixels.
    """
    if min(height_px, width_px) < 8:
        raise DatoolError(f"cannot render {height_px}x{width_px}: got a side below 8 pixels.")
    index_b = torch.as_tensor(indices, dtype=torch.int64).to(device)
    if index_b.ndim != 1 or not len(index_b):
        raise DatoolError(f"cannot render images {tuple(index_b.shape)}: expected a non-empty row of indices.")
    b, size = len(index_b), (height_px, width_px)
    image = torch.empty(b, 3, *size, dtype=torch.uint8, device=device)
    depth, camera = torch.empty(b, *size, device=device), torch.empty(b, 4, device=device)
    step = (
        1 if index_b.device.type == "cpu" else _power_of_two(MAX_TEMPORARY // (3 * GROUP * size[0] * size[1]) // 2 + 1)
    )
    with torch.no_grad():
        draw = _compiled() if compiled else picture
        layout_b = choose_layouts(seed, index_b, family)
        for number, layout in enumerate(LAYOUTS):
            for rows in (layout_b == number).nonzero()[:, 0].split(SCENES_AT_ONCE):
                if not len(rows):
                    continue
                scene = build(seed, index_b[rows], layout)
                for at in range(0, len(rows), step):
                    into = rows[at : at + step]
                    take = torch.arange(at, at + len(into), device=rows.device)
                    if compiled:  # few batch sizes, so few compilations: the last one is repeated up to a power of two
                        take = torch.arange(at, at + _power_of_two(len(into)), device=rows.device).clamp_max(
                            len(rows) - 1
                        )
                    part = scene.map(partial(torch.index_select, dim=0, index=take))
                    camera_b4 = cameras(part.view_b2, height_px, width_px)
                    with torch._dynamo.config.patch(recompile_limit=256) if compiled else nullcontext():
                        made = draw(part, camera_b4, height_px, width_px)
                    for whole, some in zip((image, depth, camera), (*made, camera_b4), strict=True):
                        whole[into] = some[: len(into)]
    return Rendered(image, depth, camera)


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


def picture(scene: Scene, camera_b4: Tensor, height_px: int, width_px: int) -> tuple[Tensor, Tensor]:
    """Return (B, 3, H, W) uint8 and (B, H, W) depth of explicit scenes seen by explicit cameras."""
    ray_b3n = rays(camera_b4, height_px, width_px)
    depth_bn, winner_bn = trace(scene, ray_b3n)
    light_b3n = shade(scene, ray_b3n, depth_bn, winner_bn, camera_b4[:, 0])
    image = develop(scene, light_b3n, height_px, width_px)
    sky = torch.full_like(depth_bn, torch.inf)
    return image, torch.where(depth_bn < FAR_M, depth_bn, sky).view(-1, height_px, width_px)


# ---------------------------------------------------------------------------------------------------------- geometry


def rays(camera_b4: Tensor, height_px: int, width_px: int) -> Tensor:
    """Return (B, 3, H*W) rays (x, y, 1) through the pixel centres."""
    fx, fy, cx, cy = camera_b4[:, :, None].unbind(1)
    x = (torch.arange(width_px, device=fx.device) + 0.5 - cx) / fx
    y = (torch.arange(height_px, device=fx.device) + 0.5 - cy) / fy
    x = x[:, None, :].expand(-1, height_px, -1).flatten(1)
    y = y[:, :, None].expand(-1, -1, width_px).flatten(1)
    return torch.stack([x, y, torch.ones_like(x)], 1)


def _inverse(v: Tensor) -> Tensor:
    return v.reciprocal().clamp(-BIG, BIG)


def _box(origin: tuple[Tensor, ...], ray: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, None]:
    """Return where rays enter and leave the unit cube; enter > leave is a miss."""
    near, far = _slab(origin[0], ray[0])
    for o, d in zip(origin[1:], ray[1:], strict=True):
        low, high = _slab(o, d)
        near, far = torch.maximum(near, low), torch.minimum(far, high)
    return near, far, None


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    inverse = _inverse(d)
    middle, half = -o * inverse, inverse.abs()
    return middle - half, middle + half


def _quadric(origin: tuple[Tensor, ...], ray: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return enter, leave and by how much rays miss the unit sphere (3 axes) or the endless cylinder (2 axes)."""
    a, b, c = ray[0] * ray[0], origin[0] * ray[0], origin[0] * origin[0]
    for o, d in zip(origin[1:], ray[1:], strict=True):
        a, b, c = torch.addcmul(a, d, d), torch.addcmul(b, o, d), torch.addcmul(c, o, o)
    a = a + 1e-20
    found = b * b - a * (c - 1)
    square = found.clamp_min(0)
    root, inverse = square.sqrt(), _inverse(a)
    middle, half = -b * inverse, root * inverse
    return middle - half, middle + half, square - found


def _cylinder(origin: tuple[Tensor, ...], ray: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return enter, leave and miss of the unit cylinder with caps at z = -1 and 1."""
    near, far, miss = _quadric(origin[:2], ray[:2])
    low, high = _slab(origin[2], ray[2])
    return torch.maximum(near, low), torch.minimum(far, high), miss


def _groups(counts: tuple[int, int, int]) -> list[tuple[Callable[..., tuple[Tensor, Tensor, Tensor | None]], slice]]:
    """Return the runs of at most GROUP shapes of one kind, each with its test."""
    group = GROUP_COMPILED if torch.compiler.is_compiling() else GROUP
    runs, start = [], 0
    for test, count in zip((_box, _quadric, _cylinder), counts, strict=True):
        runs += [(test, slice(at, min(at + group, start + count))) for at in range(start, start + count, group)]
        start += count
    return runs


def _into(matrix_bp33: Tensor, vector_b3n: Tensor) -> Tensor:
    """Return (B, 3, P, N): vectors in the axes of each shape."""
    b, p = matrix_bp33.shape[:2]
    return (matrix_bp33.transpose(1, 2).reshape(b, 3 * p, 3) @ vector_b3n).view(b, 3, p, -1)


def trace(scene: Scene, ray_b3n: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, N) planar depth of the nearest surface and (B, N) int64 which it is; ``FAR_M`` and the last row: sky.

    A shape that holds the camera, or lies behind it, is not seen.
    """
    unit = scene.axes_bp33 / scene.half_bp3[..., None]
    origin = -(unit @ scene.centre_bp3[..., None])[..., 0]  # the camera in each shape's unit frame
    nearest, packed = [], []
    for test, run in _groups(scene.counts):
        direction = _into(unit[:, run], ray_b3n)
        near, far, miss = test(origin[:, run].transpose(1, 2)[..., None].unbind(1), direction.unbind(1))
        hidden = torch.maximum(near - far, -near).clamp_min(0)
        depth = torch.add(near, hidden, alpha=1e30)
        if miss is not None:
            depth = torch.add(depth, miss, alpha=1e30)
        nearest.append(depth.amin(1))
        packed.append(_pack(depth, run.start).amin(1))
    planes = slice(sum(scene.counts), scene.centre_bp3.shape[1])
    normal = scene.axes_bp33[:, planes, 2]
    height = (normal * scene.centre_bp3[:, planes]).sum(-1, keepdim=True)  # below 0: the camera is before the plane
    depth = height / (normal @ ray_b3n).clamp_max(-1e-12)
    nearest.append(depth.amin(1))
    packed.append(_pack(depth, planes.start).amin(1))
    best, winner = torch.stack(nearest).amin(0), torch.stack(packed).amin(0) & ID_BITS
    sky = best >= FAR_M
    return best.clamp_max(FAR_M), torch.where(sky, planes.stop, winner).long()


def _pack(depth_bpn: Tensor, start: int) -> Tensor:
    """Return the bits of positive depth, which sort as it does, with the shape's number in the lowest seven."""
    number = torch.arange(start, start + depth_bpn.shape[1], device=depth_bpn.device, dtype=torch.int32)
    return (depth_bpn.view(torch.int32) & ~ID_BITS) | number[:, None]


def occlusion(scene: Scene, point_b3n: Tensor, to_light_b3n: Tensor) -> Tensor:
    """Return (B, N) metres that the way from a point to the light runs inside the thickest shape on it."""
    unit = scene.axes_bp33 / scene.half_bp3[..., None]
    centre = (unit @ scene.centre_bp3[..., None])[..., 0]
    most = []
    for test, run in _groups(scene.counts):
        origin = _into(unit[:, run], point_b3n) - centre[:, run].transpose(1, 2)[..., None]
        near, far, _ = test(origin.unbind(1), _into(unit[:, run], to_light_b3n).unbind(1))
        most.append((far.clamp_max(1) - near.clamp_min(0)).amax(1))
    return torch.stack(most).amax(0).clamp_min(0) * to_light_b3n.square().sum(1).sqrt()


# ---------------------------------------------------------------------------------------------------------- shading


def lattice_noise(at_b3n: Tensor, salt_bn: Tensor) -> Tensor:
    """Return (B, N) value noise in [0, 1]: a hash at the eight corners of the unit cell, smoothly interpolated."""
    low = at_b3n.floor()
    part = at_b3n - low
    part = part * part * (3 - 2 * part)
    cell = low.to(torch.int32)
    steps = [
        [cell[:, i] * prime, cell[:, i] * prime + prime] for i, prime in enumerate((374761393, 668265263, 1274126177))
    ]
    corners = torch.stack([steps[0][i] ^ steps[1][j] ^ steps[2][k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    value = _hash(corners + salt_bn)
    for axis in (0, 1, 2):
        value = torch.lerp(value[: len(value) // 2], value[len(value) // 2 :], part[:, axis])
    return value[0]


def _hash(v: Tensor) -> Tensor:
    """Return floats in [0, 1) of int32, wrapping."""
    v = (v ^ (v >> 15)) * 739982445
    v = (v ^ (v >> 12)) * 695872825
    return ((v >> 8) & 0xFFFF).float() * (1 / 65536)


def _split(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = v.unbind(1)
    return x, y, z


def shade(scene: Scene, ray_b3n: Tensor, depth_bn: Tensor, winner_bn: Tensor, focal_b: Tensor) -> Tensor:
    """Return (B, 3, N) linear light: texture, sun or lamp with shadow, ambient light, sky and fog."""
    rows = scene.centre_bp3.shape[1]
    b, n = depth_bn.shape
    sky = (winner_bn == rows).float()
    # the winner's frame and material, one row of numbers a pixel
    table = torch.cat([scene.centre_bp3, scene.axes_bp33.flatten(2), scene.half_bp3], -1)
    table = torch.cat([torch.cat([table, table[:, -1:]], 1), scene.material_bpk], -1).transpose(1, 2)
    first = torch.arange(b, device=winner_bn.device)[:, None] * (rows + 1)
    table = table.transpose(0, 1).reshape(-1, b * (rows + 1))
    row = table.index_select(1, (winner_bn + first).flatten()).view(-1, b, n)
    axes, half, mat = row[3:12].view(3, 3, b, n), row[12:15], dict(zip(MATERIAL_COLUMNS, row[15:], strict=True))
    point_b3n = depth_bn[:, None] * ray_b3n
    offset = [p - c for p, c in zip(_split(point_b3n), row[:3], strict=True)]
    q = [sum(a * o for a, o in zip(axis, offset, strict=True)) for axis in axes]  # metres in the local frame
    u = [v / h for v, h in zip(q, half, strict=True)]

    # normal and a flat chart of the surface
    boxes, ellipsoids, cylinders = scene.counts
    is_box = (winner_bn < boxes).float()
    is_plane = (winner_bn >= boxes + ellipsoids + cylinders).float()
    is_ellipsoid = ((winner_bn >= boxes) & (winner_bn < boxes + ellipsoids)).float()
    is_cylinder = 1 - is_box - is_plane - is_ellipsoid
    size = [v.abs() for v in u]
    top = torch.maximum(torch.maximum(size[0], size[1]), size[2])
    face = [(s >= top).float() for s in size]
    face[1] = face[1] * (1 - face[0])
    face[2] = face[2] * (1 - face[0]) * (1 - face[1])
    cap = is_cylinder * (u[2] * u[2] > u[0] * u[0] + u[1] * u[1]).float()
    round_ = is_ellipsoid + is_cylinder - cap
    g = [is_box * f * v.sign() + round_ * v / h for f, v, h in zip(face, u, half, strict=True)]
    g[2] = g[2] - round_ * is_cylinder * u[2] / half[2] + cap * u[2].sign() + is_plane
    normal = [sum(axes[i][k] * g[i] for i in range(3)) for k in range(3)]
    scale = sum(v * v for v in normal).clamp_min(1e-20).rsqrt()
    slant = sum(v * d for v, d in zip(normal, _split(ray_b3n), strict=True))
    scale = -scale * slant.sign()  # towards the camera
    normal_b3n = torch.stack([v * scale for v in normal], 1)
    length = ray_b3n.square().sum(1).sqrt()
    facing = (slant * scale).abs() / length
    around = torch.atan2(q[1], q[0]) * half[0]
    chart_u = round_ * around + (1 - round_) * (q[0] + is_box * face[0] * (q[1] - q[0]))
    chart_v = round_ * q[2] + (1 - round_) * (q[1] + is_box * (1 - face[2]) * (q[2] - q[1]))
    up = (normal_b3n * scene.up_b3[..., None]).sum(1)
    rise = (ray_b3n * scene.up_b3[..., None]).sum(1) / length
    flatten = 1 / (rise.clamp_min(0) + 0.08)
    q = [(v + sky * (d * flatten / length - v)).clamp(-1e5, 1e5) for v, d in zip(q, _split(ray_b3n), strict=True)]

    # texture: four octaves of noise and one grid, each fading where a pixel covers more than a cell
    footprint = depth_bn / focal_b[:, None] / facing.clamp_min(0.08) * (1 - sky) + 0.004 * sky
    salt = mat["salt"].to(torch.int32) * 668265263
    noise, gain, total = torch.zeros_like(depth_bn), torch.ones_like(depth_bn), torch.zeros_like(depth_bn)
    for k in range(4):
        at = [v * mat[name] * 2.0**k for v, name in zip(q, ("noise_x", "noise_y", "noise_z"), strict=True)]
        fade = 1 / (1 + (1.5 * 2.0**k * mat["noise_y"] * footprint) ** 2)
        noise = noise + gain * fade * (lattice_noise(torch.stack(at, 1), salt + 7919 * k) - 0.5)
        gain, total = gain * mat["rough"], total + gain
    noise = noise / total
    wavy = mat["warp"] * noise * 2
    row_v = chart_v * mat["grid_v"] + wavy
    cell_v = row_v.floor()
    row_u = chart_u * mat["grid_u"] + wavy + mat["shift"] * cell_v
    cell_u = row_u.floor()
    sharp = 1 / (1 + (1.5 * torch.maximum(mat["grid_u"], mat["grid_v"]) * footprint) ** 2)
    parity = (cell_u + cell_v) * 0.5
    parity = (parity - parity.floor()) * 2 - 0.5
    tone = (
        _hash(
            (cell_u.clamp(-1e6, 1e6).to(torch.int32) * 374761393)
            ^ (cell_v.clamp(-1e6, 1e6).to(torch.int32) * 1274126177)
            ^ salt
        )
        - 0.5
    )
    wide_v = mat["joint"] * (mat["grid_v"] / mat["grid_u"]).sqrt()
    joint = torch.maximum(
        ((row_u - cell_u - 0.5).abs() > 0.5 - mat["joint"] / 2).float(),
        ((row_v - cell_v - 0.5).abs() > 0.5 - wide_v / 2).float(),
    )
    joint = sharp * joint + (1 - sharp) * (mat["joint"] + wide_v).clamp_max(1) * 0.7
    mix = 0.5 + 2.4 * mat["by_noise"] * noise + sharp * (mat["by_parity"] * parity + mat["by_cell"] * tone)
    mix, joint = mix.clamp(0, 1), joint * mat["by_joint"]
    albedo = torch.stack(
        [torch.lerp(torch.lerp(mat[f"a_{c}"], mat[f"b_{c}"], mix), mat[f"c_{c}"], joint) for c in "rgb"], 1
    )

    # light
    lifted = point_b3n + normal_b3n * (1e-3 + 2e-3 * depth_bn)[:, None]
    lamp = scene.light_b4[:, 3, None, None]
    to_light = scene.light_b4[:, :3, None] * (1 + (1 - lamp) * 300.0) - lamp * lifted
    shadow = (occlusion(scene, lifted, to_light) * 25).clamp_max(1)
    reach = to_light.square().sum(1, keepdim=True)
    toward = to_light * reach.rsqrt()
    cosine = (normal_b3n * toward).sum(1).clamp_min(0)
    strength = (1 - shadow) * (1 - lamp[:, 0] + lamp[:, 0] * 2.2 / (1 + 0.25 * reach[:, 0]))
    halfway = toward - ray_b3n / length[:, None]
    glint = (normal_b3n * halfway).sum(1).clamp_min(0) * halfway.square().sum(1).clamp_min(1e-12).rsqrt()
    glint = glint.square().square().square().square() * mat["shine"] * 0.35 * (cosine > 0).float()
    direct = scene.light_colour_b3[..., None] * (strength * cosine)[:, None]
    ambient = scene.ambient_b3[..., None] * (0.62 + 0.25 * up + 0.18 * facing)[:, None]
    light = albedo * (direct + ambient + mat["glow"][:, None])
    light = light + scene.light_colour_b3[..., None] * (strength * glint)[:, None]
    horizon = torch.exp(-7 * rise.clamp_min(0))[:, None] * 0.9
    above = torch.lerp(albedo, scene.haze_b3[..., None].expand_as(albedo), horizon)
    thick = 1 - torch.exp(-scene.fog_b[:, None] * depth_bn * length)
    light = torch.lerp(light, scene.haze_b3[..., None].expand_as(light), thick[:, None])
    return torch.lerp(light, above, sky[:, None])


def develop(scene: Scene, light_b3n: Tensor, height_px: int, width_px: int) -> Tensor:
    """Return (B, 3, H, W) uint8: exposure by the mean, vignette, blur, white balance, film curve, gamma, grain."""
    b = len(light_b3n)
    exposure, gamma, contrast, vignette, blur, grain, red, blue = scene.lens_bk[:, :, None, None, None].unbind(1)
    mean = light_b3n.mean(1).sqrt().mean(1).square().clamp_min(1e-4)
    picture_ = light_b3n.view(b, 3, height_px, width_px) * (0.22 * exposure / mean[:, None, None, None])
    y = torch.linspace(-1, 1, height_px, device=light_b3n.device)[:, None]
    x = torch.linspace(-1, 1, width_px, device=light_b3n.device)
    picture_ = picture_ * (1 - vignette * (x * x + y * y) * 0.8)
    edge = torch.cat([picture_[:, :, :1], picture_, picture_[:, :, -1:]], 2)
    picture_ = picture_ * (1 - 2 * blur) + (edge[:, :, :-2] + edge[:, :, 2:]) * blur
    edge = torch.cat([picture_[..., :1], picture_, picture_[..., -1:]], 3)
    picture_ = picture_ * (1 - 2 * blur) + (edge[..., :-2] + edge[..., 2:]) * blur
    balance = torch.cat([red, torch.ones_like(red), blue], 1)
    picture_ = (1 - torch.exp(-1.3 * picture_ * balance)) ** (gamma / 2.2)
    picture_ = torch.lerp(picture_, picture_ * picture_ * (3 - 2 * picture_), contrast)
    number = torch.arange(3 * height_px * width_px, device=light_b3n.device, dtype=torch.int32) * 374761393
    salt = scene.salt_b[:, None]
    noise = _hash(number ^ salt) + _hash((number ^ salt) + 1013904223) - 1
    picture_ = picture_ + noise.view_as(picture_) * grain * 2.4  # a triangle of standard deviation 1 / 2.4
    return (picture_ * 255 + 0.5).clamp(0, 255).to(torch.uint8)
