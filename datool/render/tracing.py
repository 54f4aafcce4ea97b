"""Where rays meet a scene: the nearest surface, exactly, and what stands between a point and the light.

A ray is ``t * (x, y, 1)`` in camera axes, so the nearest ``t`` *is* planar depth. Every shape is tested at every pixel,
a few shapes at a time so that temporaries stay in cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from datool.render.noise import hash_bits
from datool.render.props import KINDS_OF_SHAPE, SOLIDS
from datool.render.scenes import AWAY_M, Scene
from datool.render.terrain import meet

FAR_M = 5000.0  # beyond is sky
BIG = 1e18
GROUP, GROUP_COMPILED = 4, 16  # shapes tested at once; more make a smaller graph, faster to compile
NO_HIT = 1e30
CARD_M = 0.05  # a card casts the shadow of something so thick
Runs = list[tuple[str, slice]]  # kinds of shape, and which rows
Frame = tuple[Tensor, ...]  # x, y, z in the shapes' unit frames, each (B, P, N)


def rays(camera_b4: Tensor, height_px: int, width_px: int) -> Tensor:
    """Return (B, 3, H*W) rays (x, y, 1) through the pixel centres."""
    fx, fy, cx, cy = camera_b4[:, :, None].unbind(1)
    x = (torch.arange(width_px, device=fx.device) + 0.5 - cx) / fx
    y = (torch.arange(height_px, device=fx.device) + 0.5 - cy) / fy
    x = x[:, None, :].expand(-1, height_px, -1).flatten(1)
    y = y[:, :, None].expand(-1, -1, width_px).flatten(1)
    return torch.stack([x, y, torch.ones_like(x)], 1)


# ------------------------------------------------------------------------------------------------------------ solids


def _inverse(v: Tensor) -> Tensor:
    return v.reciprocal().clamp(-BIG, BIG)


def _box(origin: Frame, ray: Frame) -> tuple[Tensor, Tensor, None]:
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


def _quadric(origin: Frame, ray: Frame) -> tuple[Tensor, Tensor, Tensor]:
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


def _cylinder(origin: Frame, ray: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """Return enter, leave and miss of the unit cylinder with caps at z = -1 and 1."""
    near, far, miss = _quadric(origin[:2], ray[:2])
    low, high = _slab(origin[2], ray[2])
    return torch.maximum(near, low), torch.minimum(far, high), miss


SOLID_TESTS: dict[str, Callable[[Frame, Frame], tuple[Tensor, Tensor, Tensor | None]]] = {
    "box": _box,
    "ellipsoid": _quadric,
    "cylinder": _cylinder,
}


# ------------------------------------------------------------------------------------------------------------- cards
# A cut says where on a card, at (M,) u and v in [-1, 1], there is something: its cells along u and v, the share of a
# cell that is solid, and a salt.


def _leaves(u: Tensor, v: Tensor, cells_u: Tensor, cells_v: Tensor, share: Tensor, salt: Tensor) -> Tensor:
    """Two layers of pointed leaves, one a cell at most, each turned its own way; fewer towards the rim."""
    solid = torch.zeros_like(u, dtype=torch.bool)
    for layer in (0, 1):
        a, b = (u + 1) * cells_u / 2 + 0.5 * layer, (v + 1) * cells_v / 2 + 0.5 * layer
        low_a, low_b = a.floor(), b.floor()
        bits = hash_bits(low_a.int() * 374761393 ^ low_b.int() * 1274126177 ^ (salt.int() + layer) * 668265263)
        x, y = (a - low_a - 0.5), (b - low_b - 0.5)
        x = x - ((bits & 63).float() / 63 - 0.5) * 0.4
        y = y - (((bits >> 6) & 63).float() / 63 - 0.5) * 0.4
        turn = ((bits >> 12) & 127).float() * (6.2832 / 128)
        cos, sin = turn.cos(), turn.sin()
        along, across = (cos * x + sin * y) * 1.5, (cos * y - sin * x) * 1.5
        wide = 0.35 + 0.35 * ((bits >> 19) & 15).float() / 15
        rim_u, rim_v = (low_a + 0.5) * 2 / cells_u - 1, (low_b + 0.5) * 2 / cells_v - 1
        grows = ((bits >> 23) & 63).float() / 63 < share * ((1 - rim_u * rim_u - rim_v * rim_v) * 4 + 0.1).clamp(0, 1)
        solid = solid | (grows & (across.abs() < wide * (1.0 - along * along)))
    return solid


def _blades(u: Tensor, v: Tensor, cells_u: Tensor, cells_v: Tensor, share: Tensor, salt: Tensor) -> Tensor:
    """Two layers of grass blades that lean and taper, one a cell of u."""
    solid = torch.zeros_like(u, dtype=torch.bool)
    up = (v + 1) / 2
    for layer in (0, 1):
        a = (u + 1) * cells_u / 2 + 0.5 * layer
        bits = hash_bits(a.floor().int() * 374761393 ^ (salt.int() + layer) * 668265263)
        tall = 0.35 + 0.65 * (bits & 255).float() / 255
        lean = (((bits >> 8) & 255).float() / 255 - 0.5) * 0.8
        x = a - a.floor() - 0.5 - lean * up * up
        solid = solid | (x.abs() < share * 0.5 * (1 - up / tall))
    return solid


def _mesh(u: Tensor, v: Tensor, cells_u: Tensor, cells_v: Tensor, share: Tensor, salt: Tensor) -> Tensor:
    """Diamonds of wire and a tube round the rim."""
    a, b = (u + 1) * cells_u / 2, (v + 1) * cells_v / 2
    wires = [((line - line.floor() - 0.5).abs() > 0.5 - share / 2) for line in (a + b, a - b)]
    return wires[0] | wires[1] | ((1 - u.abs()) * cells_u < 0.8) | ((1 - v.abs()) * cells_v < 0.8)


def _bars(u: Tensor, v: Tensor, cells_u: Tensor, cells_v: Tensor, share: Tensor, salt: Tensor) -> Tensor:
    """Upright bars, one a cell of u, between two rails as thick as a ``cells_v``-th of the height."""
    a = (u + 1) * cells_u / 2
    rail = 1 - 2 / cells_v
    return ((a - a.floor() - 0.5).abs() < share / 2) | ((v.abs() - rail * 0.92).abs() < 0.7 / cells_v)


def _cables(u: Tensor, v: Tensor, cells_u: Tensor, cells_v: Tensor, share: Tensor, salt: Tensor) -> Tensor:
    """``cells_v`` cables one over the other that sag by half the card's height in each of ``cells_u`` spans."""
    a = (u + 1) * cells_u / 2
    x = (a - a.floor()) * 2 - 1
    b = (v - (x * x - 1) - 1) * cells_v + cells_v  # from the lowest cable up, in gaps
    line = b - b.floor() - 0.5
    return (line.abs() < share / 2) & (b > 0) & (b < cells_v)


CUTS: dict[str, Callable[..., Tensor]] = {
    "leaves": _leaves,
    "blades": _blades,
    "mesh": _mesh,
    "bars": _bars,
    "cables": _cables,
}


def _card(kind: str, cut_bp4: Tensor, origin: Frame, ray: Frame, farthest: float) -> Tensor:
    """Return (B, P, N): where rays meet the solid part of cards before ``farthest``; ``NO_HIT`` where they do not."""
    t = -origin[2] * _inverse(ray[2])
    u, v = torch.addcmul(origin[0], t, ray[0]), torch.addcmul(origin[1], t, ray[1])
    inside = (u.abs() < 1) & (v.abs() < 1) & (t > 1e-4) & (t < farthest)
    none = torch.full_like(t, NO_HIT)
    if torch.compiler.is_compiling():
        return torch.where(inside & CUTS[kind](u, v, *cut_bp4[..., None].unbind(2)), t, none)
    b, p, n = inside.nonzero(as_tuple=True)  # a card covers little of a picture
    solid = CUTS[kind](u[b, p, n], v[b, p, n], *cut_bp4[b, p].unbind(-1))
    return none.index_put_((b[solid], p[solid], n[solid]), t[b[solid], p[solid], n[solid]])


# ------------------------------------------------------------------------------------------------------------- scene


def runs_of(scene: Scene, wanted_bp: Tensor | None = None) -> Runs:
    """Return the runs of at most GROUP shapes of one kind; only those that hold a wanted one.

    Borders between runs stay the same whatever is wanted: rounding depends on how many shapes are multiplied at once.
    """
    group = GROUP_COMPILED if torch.compiler.is_compiling() else GROUP
    runs, start = [], 0
    for kind, count in zip(KINDS_OF_SHAPE, scene.counts, strict=True):
        runs += [(kind, slice(at, min(at + group, start + count))) for at in range(start, start + count, group)]
        start += count
    if wanted_bp is None:
        return runs
    wanted = wanted_bp.any(0).tolist()
    return [(kind, run) for kind, run in runs if any(wanted[run])]


def standing(scene: Scene) -> Tensor:
    """Return (B, P) bool: the shapes that are there at all."""
    return scene.centre_bp3[:, : sum(scene.counts), 2] > 0.9 * -AWAY_M


def in_view(scene: Scene, camera_b4: Tensor, height_px: int, width_px: int) -> Tensor:
    """Return (B, P) bool: the shapes whose bounding sphere touches the camera's pyramid."""
    shapes = sum(scene.counts)
    centre, radius = scene.centre_bp3[:, :shapes], scene.half_bp3[:, :shapes].norm(dim=-1)
    fx, fy, cx, cy = camera_b4.unbind(1)
    zero = torch.zeros_like(fx)
    inward = [(fx, zero, cx), (-fx, zero, width_px - cx), (zero, fy, cy), (zero, -fy, height_px - cy)]
    sides = torch.nn.functional.normalize(torch.stack([torch.stack(side, -1) for side in inward], 1), dim=-1)
    return ((centre @ sides.transpose(1, 2)) > -1.001 * radius[..., None] - 1e-3).all(-1) & standing(scene)


def _cuts_of(scene: Scene, run: slice) -> Tensor:
    """Return the cuts of a run of cards, which stand behind the solids."""
    solids = sum(scene.counts[: len(SOLIDS)])
    return scene.cut_bp4[:, run.start - solids : run.stop - solids]


def _into(matrix_bp33: Tensor, vector_b3n: Tensor) -> Tensor:
    """Return (B, 3, P, N): vectors in the axes of each shape."""
    b, p = matrix_bp33.shape[:2]
    return (matrix_bp33.transpose(1, 2).reshape(b, 3 * p, 3) @ vector_b3n).view(b, 3, p, -1)


def trace(
    scene: Scene, ray_b3n: Tensor, origin_b3n: Tensor | None = None, runs: Runs | None = None
) -> tuple[Tensor, Tensor]:
    """Return (B, N) planar depth of the nearest surface and (B, N) int64 which it is; ``FAR_M`` and the last row: sky.

    Rays start at the camera or at ``origin_b3n`` and look at ``runs`` of shapes, by default all. A solid that holds the
    start, or lies behind it, is not seen.
    """
    unit = scene.axes_bp33 / scene.half_bp3[..., None]
    centre = (unit @ scene.centre_bp3[..., None])[..., 0]
    planes = slice(sum(scene.counts), scene.centre_bp3.shape[1])
    bits = max(7, planes.stop.bit_length())  # the winner's number rides in the depth's lowest bits
    nearest, packed = [], []

    def add(depth_bpn: Tensor, first: int) -> None:
        nearest.append(depth_bpn.amin(1))
        packed.append(_pack(depth_bpn, first, bits).amin(1))

    for kind, run in runs_of(scene) if runs is None else runs:
        direction = _into(unit[:, run], ray_b3n).unbind(1)
        start = -centre[:, run].transpose(1, 2)[..., None]
        if origin_b3n is not None:
            start = _into(unit[:, run], origin_b3n) + start
        if kind not in SOLID_TESTS:
            add(_card(kind, _cuts_of(scene, run), start.unbind(1), direction, FAR_M), run.start)
            continue
        near, far, miss = SOLID_TESTS[kind](start.unbind(1), direction)
        hidden = torch.maximum(near - far, -near).clamp_min(0)
        depth = torch.add(near, hidden, alpha=NO_HIT)
        add(depth if miss is None else torch.add(depth, miss, alpha=NO_HIT), run.start)
    add(_planes(scene, planes, ray_b3n, origin_b3n), planes.start)
    best, winner = torch.stack(nearest).amin(0), torch.stack(packed).amin(0) & ((1 << bits) - 1)
    sky = best >= FAR_M
    return best.clamp_max(FAR_M), torch.where(sky, planes.stop, winner).long()


def _planes(scene: Scene, planes: slice, ray_b3n: Tensor, origin_b3n: Tensor | None) -> Tensor:
    """Return (B, P, N) depth of the planes; the first is the ground and may have hills."""
    normal = scene.axes_bp33[:, planes, 2]
    height = (normal * scene.centre_bp3[:, planes]).sum(-1, keepdim=True)  # below 0: the camera is before the plane
    if origin_b3n is not None:
        height = height - normal @ origin_b3n
    depth = height / (normal @ ray_b3n).clamp_max(-1e-12)
    waves = scene.waves_bw4
    if scene.has("terrain", waves[..., 0] != 0):
        axes, centre = scene.axes_bp33[:, planes.start], scene.centre_bp3[:, planes.start]
        start = axes @ (torch.zeros_like(ray_b3n[..., :1]) if origin_b3n is None else origin_b3n)
        hills = meet(waves, start - axes @ centre[..., None], axes @ ray_b3n)
        hilly = (waves[..., 0] != 0).any(1)[:, None]
        depth = torch.cat([torch.where(hilly, hills, depth[:, 0])[:, None], depth[:, 1:]], 1)
    return depth


def _pack(depth_bpn: Tensor, first: int, bits: int) -> Tensor:
    """Return the bits of positive depth, which sort as it does, with the shape's number in the lowest ones."""
    number = torch.arange(first, first + depth_bpn.shape[1], device=depth_bpn.device, dtype=torch.int32)
    return (depth_bpn.view(torch.int32) & ~((1 << bits) - 1)) | number[:, None]


def occlusion(scene: Scene, runs: Runs, point_b3n: Tensor, to_light_b3n: Tensor) -> Tensor:
    """Return (B, N) metres that the way from a point to the light runs inside the thickest shape on it.

    A card counts as ``CARD_M``, glass not at all; hills throw no shadow.
    """
    unit = scene.axes_bp33 / scene.half_bp3[..., None]
    centre = (unit @ scene.centre_bp3[..., None])[..., 0]
    most, carded = [], []
    for kind, run in runs:
        origin = (_into(unit[:, run], point_b3n) - centre[:, run].transpose(1, 2)[..., None]).unbind(1)
        direction = _into(unit[:, run], to_light_b3n).unbind(1)
        if kind not in SOLID_TESTS:
            carded.append((_card(kind, _cuts_of(scene, run), origin, direction, 1.0) < NO_HIT).any(1))
            continue
        near, far, _ = SOLID_TESTS[kind](origin, direction)
        inside = far.clamp_max(1) - near.clamp_min(0)
        if "second" in scene.passes:
            inside = inside * (1 - scene.material("glass", run))[..., None]
        most.append(inside.amax(1))
    if not most:
        most = [torch.zeros_like(point_b3n[:, 0])]
    metres = torch.stack(most).amax(0).clamp_min(0) * to_light_b3n.square().sum(1).sqrt()
    return metres if not carded else metres.maximum(torch.stack(carded).any(0) * CARD_M)
