"""What light a surface sends back: its material where it is seen, sun or lamps, mirrors and glass, fog, sky."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from datool.render.draws import MATERIAL_COLUMNS
from datool.render.noise import cobbles, hash_unit, lattice_noise
from datool.render.photos import Photos
from datool.render.scenes import Scene
from datool.render.terrain import slope
from datool.render.tracing import occlusion, trace

SUN_M = 300.0  # shadows of the sun are looked for so far


class Seen(NamedTuple):
    """What rays hit, per pixel: the material's columns, the place in the shape's axes (m), a flat chart, the normal."""

    mat: dict[str, Tensor]
    point_b3n: Tensor
    local: list[Tensor]
    chart_u: Tensor
    chart_v: Tensor
    normal_b3n: Tensor
    facing: Tensor  # cosine between the ray and the normal
    rise: Tensor  # the ray's climb, as a sine
    sky: Tensor  # 1 where nothing is hit
    footprint: Tensor  # metres of surface that the pixel covers
    lift: Tensor  # metres above the surface from which further rays start


def shade(
    scene: Scene,
    ray_b3n: Tensor,
    depth_bn: Tensor,
    winner_bn: Tensor,
    focal_b: Tensor,
    photos: Photos | None = None,
    tiles_tk: Tensor | None = None,
) -> Tensor:
    """Return (B, 3, N) linear light.

    Args:
        scene: what is there.
        ray_b3n: from the camera.
        depth_bn, winner_bn: of ``trace``.
        focal_b: pixels.
        photos: what the materials' photos are.
        tiles_tk: which rays lie side by side.
    """
    seen = look_up(scene, ray_b3n, None, depth_bn, winner_bn, depth_bn / focal_b[:, None])
    light = lit(scene, seen, ray_b3n, photos, tiles_tk)
    through = seen.mat["mirror"] + seen.mat["glass"]
    if scene.has("second", through):
        light = _second(scene, seen, light, ray_b3n, depth_bn, focal_b, photos)
    return veiled(scene, seen, light, ray_b3n, depth_bn)


def look_up(
    scene: Scene, ray_b3n: Tensor, origin_b3n: Tensor | None, depth_bn: Tensor, winner_bn: Tensor, pixel_bn: Tensor
) -> Seen:
    """Return material, normal and chart of what rays hit; ``pixel_bn`` is the pixel's width there in m."""
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
    if origin_b3n is not None:
        point_b3n = point_b3n + origin_b3n
    offset = [p - c for p, c in zip(point_b3n.unbind(1), row[:3], strict=True)]
    q = [sum(a * o for a, o in zip(axis, offset, strict=True)) for axis in axes]  # metres in the local frame
    u = [v / h for v, h in zip(q, half, strict=True)]

    boxes, ellipsoids, cylinders = scene.counts[:3]
    is_box = (winner_bn < boxes).float()
    is_flat = (winner_bn >= boxes + ellipsoids + cylinders).float()  # cards and planes
    is_ellipsoid = ((winner_bn >= boxes) & (winner_bn < boxes + ellipsoids)).float()
    is_cylinder = 1 - is_box - is_flat - is_ellipsoid
    size = [v.abs() for v in u]
    top = torch.maximum(torch.maximum(size[0], size[1]), size[2])
    face = [(s >= top).float() for s in size]
    face[1] = face[1] * (1 - face[0])
    face[2] = face[2] * (1 - face[0]) * (1 - face[1])
    cap = is_cylinder * (u[2] * u[2] > u[0] * u[0] + u[1] * u[1]).float()
    round_ = is_ellipsoid + is_cylinder - cap
    g = [is_box * f * v.sign() + round_ * v / h for f, v, h in zip(face, u, half, strict=True)]
    g[2] = g[2] - round_ * is_cylinder * u[2] / half[2] + cap * u[2].sign() + is_flat
    if scene.has("terrain", scene.waves_bw4[..., 0] != 0):
        hill = (winner_bn == sum(scene.counts)).float()
        for axis, steep in enumerate(slope(scene.waves_bw4, q[0], q[1])):
            g[axis] = g[axis] - hill * steep
    normal = [sum(axes[i][k] * g[i] for i in range(3)) for k in range(3)]
    scale = sum(v * v for v in normal).clamp_min(1e-20).rsqrt()
    slant = sum(v * d for v, d in zip(normal, ray_b3n.unbind(1), strict=True))
    scale = -scale * slant.sign()  # towards the camera
    normal_b3n = torch.stack([v * scale for v in normal], 1)
    length = ray_b3n.square().sum(1).sqrt()
    facing = (slant * scale).abs() / length
    around = torch.atan2(q[1], q[0]) * half[0]
    chart_u = round_ * around + (1 - round_) * (q[0] + is_box * face[0] * (q[1] - q[0]))
    chart_v = round_ * q[2] + (1 - round_) * (q[1] + is_box * (1 - face[2]) * (q[2] - q[1]))
    rise = (ray_b3n * scene.up_b3[..., None]).sum(1) / length
    flatten = 1 / (rise.clamp_min(0) + 0.08)
    q = [(v + sky * (d * flatten / length - v)).clamp(-1e5, 1e5) for v, d in zip(q, ray_b3n.unbind(1), strict=True)]
    footprint = pixel_bn / facing.clamp_min(0.08) * (1 - sky) + 0.004 * sky
    lift = 1e-3 + 2e-3 * depth_bn
    return Seen(mat, point_b3n, q, chart_u, chart_v, normal_b3n, facing, rise, sky, footprint, lift)


# ---------------------------------------------------------------------------------------------------------- material


def albedo_of(scene: Scene, seen: Seen, photos: Photos | None) -> tuple[Tensor, Tensor]:
    """Return (B, 3, N) colour and (B, N) glow: four octaves of noise and one grid, each fading where a pixel covers
    more than a cell; then stains, veins, cobbles and photos."""
    mat, q, footprint = seen.mat, seen.local, seen.footprint
    salt = mat["salt"].to(torch.int32) * 668265263
    noise, gain, total = (torch.full_like(footprint, v) for v in (0.0, 1.0, 0.0))
    for k in range(4):
        at = [v * mat[name] * 2.0**k for v, name in zip(q, ("noise_x", "noise_y", "noise_z"), strict=True)]
        fade = 1 / (1 + (1.5 * 2.0**k * mat["noise_y"] * footprint) ** 2)
        noise = noise + gain * fade * (lattice_noise(torch.stack(at, 1), salt + 7919 * k) - 0.5)
        gain, total = gain * mat["rough"], total + gain
    noise = noise / total
    wavy = mat["warp"] * noise * 2
    row_v = seen.chart_v * mat["grid_v"] + wavy
    cell_v = row_v.floor()
    row_u = seen.chart_u * mat["grid_u"] + wavy + mat["shift"] * cell_v
    cell_u = row_u.floor()
    sharp = 1 / (1 + (1.5 * torch.maximum(mat["grid_u"], mat["grid_v"]) * footprint) ** 2)
    parity = (cell_u + cell_v) * 0.5
    parity = (parity - parity.floor()) * 2 - 0.5
    cell = [c.clamp(-1e6, 1e6).to(torch.int32) for c in (cell_u, cell_v)]
    tone = hash_unit((cell[0] * 374761393) ^ (cell[1] * 1274126177) ^ salt) - 0.5
    wide_v = mat["joint"] * (mat["grid_v"] / mat["grid_u"]).sqrt()
    joint = torch.maximum(
        ((row_u - cell_u - 0.5).abs() > 0.5 - mat["joint"] / 2).float(),
        ((row_v - cell_v - 0.5).abs() > 0.5 - wide_v / 2).float(),
    )
    if scene.has("wear", mat["cobble"]):
        stone, deep = cobbles(row_u.clamp(-1e6, 1e6), row_v.clamp(-1e6, 1e6), salt)
        tone = torch.lerp(tone, stone - 0.5, mat["cobble"])
        joint = torch.lerp(joint, (deep < 0.09).float(), mat["cobble"])
    window = 1 - joint
    joint = sharp * joint + (1 - sharp) * (mat["joint"] + wide_v).clamp_max(1) * 0.7
    mix = 0.5 + 2.4 * mat["by_noise"] * noise + sharp * (mat["by_parity"] * parity + mat["by_cell"] * tone)
    mix, joint = mix.clamp(0, 1), joint * mat["by_joint"]
    albedo = torch.stack(
        [torch.lerp(torch.lerp(mat[f"a_{c}"], mat[f"b_{c}"], mix), mat[f"c_{c}"], joint) for c in "rgb"], 1
    )
    glow = mat["glow"]
    if scene.has("night", mat["lit"]):
        glow = glow + mat["lit"] * window * (tone > 0.1).float() * (1.5 + 3 * tone)
    if scene.has("wear", mat["stain"] + mat["vein"]):
        albedo = _worn(albedo, seen, salt, noise)
    if photos is not None and scene.has("photos", mat["photo"]):
        albedo = _papered(albedo, seen, photos)
    return albedo, glow


def _worn(albedo: Tensor, seen: Seen, salt: Tensor, noise: Tensor) -> Tensor:
    """Return the colour with dark stains about a metre wide and thin veins."""
    mat = seen.mat
    at = torch.stack([v * mat["wear_scale"] for v in seen.local], 1) + 0.8 * noise[:, None]
    broad = lattice_noise(at, salt + 104729) * 0.7 + lattice_noise(at * 2.7, salt + 1299709) * 0.3
    stain = mat["stain"] * ((broad - 0.42) * 5).clamp(0, 1)
    vein = mat["vein"] * (1 - (lattice_noise(at * 1.9, salt + 15485863) * 2 - 1).abs()).clamp(0, 1) ** 14
    dark = torch.stack([mat["c_r"], mat["c_g"], mat["c_b"]], 1)
    return torch.lerp(albedo * (1 - stain)[:, None], dark, vein[:, None])


def _papered(albedo: Tensor, seen: Seen, photos: Photos) -> Tensor:
    """Return the colour with photos laid over the materials that carry one."""
    mat = seen.mat
    values = [mat["photo_pick"], seen.chart_u / mat["photo_m"], seen.chart_v / mat["photo_m"]]
    values = [v.clamp(-1e4, 1e4) for v in (*values, seen.footprint / mat["photo_m"])]
    if torch.compiler.is_compiling():
        found = photos.sample(*(v.flatten() for v in values)).view(3, *albedo.shape[::2]).transpose(0, 1)
        return torch.lerp(albedo, found, mat["photo"][:, None])
    b, n = (mat["photo"] > 0).nonzero(as_tuple=True)
    found = photos.sample(*(v[b, n] for v in values)).T
    albedo = albedo.clone()
    albedo[b, :, n] = torch.lerp(albedo[b, :, n], found, mat["photo"][b, n][:, None])
    return albedo


# ------------------------------------------------------------------------------------------------------------- light


def lit(scene: Scene, seen: Seen, ray_b3n: Tensor, photos: Photos | None, tiles_tk: Tensor | None = None) -> Tensor:
    """Return (B, 3, N) light: sun or lamp with shadow, ambient light, lamps without shadow, a glow; or the sky's."""
    mat, normal_b3n = seen.mat, seen.normal_b3n
    albedo, glow = albedo_of(scene, seen, photos)
    up = (normal_b3n * scene.up_b3[..., None]).sum(1)
    lifted = seen.point_b3n + normal_b3n * seen.lift[:, None]
    lamp = scene.light_b4[:, 3, None, None]
    to_light = scene.light_b4[:, :3, None] * (1 + (1 - lamp) * SUN_M) - lamp * lifted
    reach = to_light.square().sum(1, keepdim=True)
    toward = to_light * reach.rsqrt()
    cosine = (normal_b3n * toward).sum(1).clamp_min(0)
    lit_bn = (cosine > 0) & (seen.sky == 0)  # shadows are looked for only where light falls
    metres = occlusion(scene, lifted, to_light.expand_as(lifted), lit_bn, tiles_tk)
    shadow = (metres * 25).clamp_max(1)
    strength = (1 - shadow) * (1 - lamp[:, 0] + lamp[:, 0] * 2.2 / (1 + 0.25 * reach[:, 0]))
    length = ray_b3n.square().sum(1).sqrt()
    halfway = toward - ray_b3n / length[:, None]
    glint = (normal_b3n * halfway).sum(1).clamp_min(0) * halfway.square().sum(1).clamp_min(1e-12).rsqrt()
    glint = glint.square().square().square().square() * mat["shine"] * 0.35 * (cosine > 0).float()
    direct = scene.light_colour_b3[..., None] * (strength * cosine)[:, None]
    ambient = scene.ambient_b3[..., None] * (0.62 + 0.25 * up + 0.18 * seen.facing)[:, None]
    if scene.has("lamps", scene.lamp_bl6[..., 3:]):
        direct = direct + _lamps(scene, lifted, normal_b3n)
    light = albedo * (direct + ambient + glow[:, None])
    light = light + scene.light_colour_b3[..., None] * (strength * glint)[:, None]
    horizon = torch.exp(-7 * seen.rise.clamp_min(0))[:, None] * 0.9
    above = torch.lerp(albedo, scene.haze_b3[..., None].expand_as(albedo), horizon)
    return torch.lerp(light, above, seen.sky[:, None])


def _lamps(scene: Scene, point_b3n: Tensor, normal_b3n: Tensor) -> Tensor:
    """Return (B, 3, N) light of the lamps, without shadows."""
    total = torch.zeros_like(point_b3n)
    for lamp_b6 in scene.lamp_bl6.unbind(1):
        toward = lamp_b6[:, :3, None] - point_b3n
        reach = toward.square().sum(1)
        cosine = (normal_b3n * toward).sum(1) * reach.clamp_min(1e-6).rsqrt()
        # wrapped a little, as light of some width does
        total = total + lamp_b6[:, 3:, None] * ((0.75 * cosine + 0.25).clamp_min(0) / (0.3 + reach))[:, None]
    return total


def veiled(scene: Scene, seen: Seen, light: Tensor, ray_b3n: Tensor, depth_bn: Tensor) -> Tensor:
    """Return the light of surfaces behind ``depth_bn`` of fog."""
    length = ray_b3n.square().sum(1).sqrt()
    thick = 1 - torch.exp(-scene.fog_b[:, None] * depth_bn * length)
    return torch.lerp(light, scene.haze_b3[..., None].expand_as(light), (thick * (1 - seen.sky))[:, None])


def _second(
    scene: Scene,
    seen: Seen,
    light: Tensor,
    ray_b3n: Tensor,
    depth_bn: Tensor,
    focal_b: Tensor,
    photos: Photos | None,
) -> Tensor:
    """Return the light with what mirrors and glass show: rays that go on once, reflected or straight on."""
    through = seen.mat["mirror"] + seen.mat["glass"] > 0
    columns = torch.arange(through.shape[1], device=through.device)
    if not torch.compiler.is_compiling():
        columns = through.any(0).nonzero()[:, 0]
    ray, normal, at = (v[..., columns] for v in (ray_b3n, seen.normal_b3n, seen.point_b3n))
    mirror, glass, lift, facing = (
        v[:, columns] for v in (seen.mat["mirror"], seen.mat["glass"], seen.lift, seen.facing)
    )
    bounced = ray - 2 * (ray * normal).sum(1, keepdim=True) * normal
    reflects = (mirror > 0)[:, None]
    onward = torch.where(reflects, bounced, ray)
    origin = at + torch.where(reflects, normal, -normal) * lift[:, None]
    far, winner = trace(scene, onward, origin)
    path = (depth_bn[:, columns] + far) / focal_b[:, None]
    beyond = look_up(scene, onward, origin, far, winner, path)
    shown = veiled(scene, beyond, lit(scene, beyond, onward, photos), onward, far)
    glancing = (1 - facing) ** 4  # Fresnel's rise towards grazing rays, roughly
    share = torch.where(reflects[:, 0], mirror + (1 - mirror) * glancing * 0.7, glass * (1 - 0.6 * glancing))
    share = share * through[:, columns]
    tint = torch.where(reflects, torch.ones_like(shown), 1 - 0.25 * (1 - light[:, :, columns].clamp(0, 1)))
    light = light.clone()
    light[:, :, columns] = torch.lerp(light[:, :, columns], shown * tint, share[:, None])
    return light
