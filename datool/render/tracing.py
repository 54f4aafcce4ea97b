"""Where rays meet a scene: the nearest surface, exactly, and what stands between a point and the light.

A ray is ``t * (x, y, 1)`` in camera axes, so the nearest ``t`` *is* planar depth. A shape is tested at the tiles of
pixels that it can touch (``tiles``); in compiled code, whose sizes must be known, at every pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from datool.render.noise import hash_bits
from datool.render.props import KINDS_OF_SHAPE, SOLIDS
from datool.render.scenes import Scene
from datool.render.terrain import meet
from datool.render.tiles import pairs, strips, tiled, touched_by_light, touched_by_rays, touched_by_view

FAR_M = 5000.0  # beyond is sky
BIG = 1e18
GROUP = 16  # shapes tested at once by compiled code; more make a smaller graph, faster to compile
NO_HIT = 1e30
CARD_M = 0.05  # a card casts the shadow of something so thick
Runs = list[tuple[str, slice]]  # kinds of shape, and which rows
Frame = tuple[Tensor, ...]  # x, y, z in the shapes' unit frames, each (L, K) of pairs of shape and tile, or (B, P, N)


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


def _card(kind: str, cut: Tensor, origin: Frame, ray: Frame, farthest: float) -> Tensor:
    """Return where rays meet the solid part of cards before ``farthest``; ``NO_HIT`` where they do not.

    ``cut`` has the shape of the frames without the rays, and 4.
    """
    t = -origin[2] * _inverse(ray[2])
    u, v = torch.addcmul(origin[0], t, ray[0]), torch.addcmul(origin[1], t, ray[1])
    inside = (u.abs() < 1) & (v.abs() < 1) & (t > 1e-4) & (t < farthest)
    none = torch.full_like(t, NO_HIT)
    if torch.compiler.is_compiling():
        return torch.where(inside & CUTS[kind](u, v, *cut[..., None].unbind(-2)), t, none)
    at = inside.nonzero(as_tuple=True)  # a card covers little of a picture
    solid = CUTS[kind](u[at], v[at], *cut[at[:-1]].unbind(-1))
    at = tuple(index[solid] for index in at)
    return none.index_put_(at, t[at])


# ------------------------------------------------------------------------------------------------------------- scene


def _runs_of(scene: Scene) -> Runs:
    """Return the runs of at most GROUP shapes of one kind."""
    runs, start = [], 0
    for kind, count in zip(KINDS_OF_SHAPE, scene.counts, strict=True):
        runs += [(kind, slice(at, min(at + GROUP, start + count))) for at in range(start, start + count, GROUP)]
        start += count
    return runs


def _into(matrix_bp33: Tensor, vector_b3n: Tensor) -> Tensor:
    """Return (B, 3, P, N): vectors in the axes of each shape."""
    b, p = matrix_bp33.shape[:2]
    return (matrix_bp33.transpose(1, 2).reshape(b, 3 * p, 3) @ vector_b3n).view(b, 3, p, -1)


def _cuts_of(scene: Scene) -> Tensor:
    """Return (B, P, 4) the cuts of all shapes; only cards have one."""
    return torch.nn.functional.pad(scene.cut_bp4, (0, 0, sum(scene.counts[: len(SOLIDS)]), 0))


def _units(scene: Scene) -> tuple[Tensor, Tensor]:
    """Return what turns the camera's axes into each shape's unit frame, (B, P, 3, 3), and where its centre comes to."""
    unit = scene.axes_bp33 / scene.half_bp3[..., None]
    return unit, (unit @ scene.centre_bp3[..., None])[..., 0]


def trace(
    scene: Scene, ray_b3n: Tensor, origin_b3n: Tensor | None = None, tiles_tk: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (B, N) planar depth of the nearest surface and (B, N) int64 which it is; ``FAR_M`` and the last row: sky.

    Rays start at the camera or at ``origin_b3n``. ``tiles_tk`` says which of them lie side by side; by default those
    that follow each other. A solid that holds the start, or lies behind it, is not seen.
    """
    planes = slice(sum(scene.counts), scene.centre_bp3.shape[1])
    bits = max(7, planes.stop.bit_length())  # the winner's number rides in the depth's lowest bits
    mask = (1 << bits) - 1
    depth = _planes(scene, planes, ray_b3n, origin_b3n)
    number = torch.arange(planes.start, planes.stop, device=depth.device, dtype=torch.int32)[:, None]
    best, packed = depth.amin(1), _pack(depth, number, mask).amin(1)
    if torch.compiler.is_compiling():
        for run, depth in _dense(scene, ray_b3n, origin_b3n):
            number = torch.arange(run.start, run.stop, device=depth.device, dtype=torch.int32)[:, None]
            best = torch.minimum(best, depth.amin(1))
            packed = torch.minimum(packed, _pack(depth, number, mask).amin(1))
    else:
        tiles_tk = strips(ray_b3n.shape[2], ray_b3n.device) if tiles_tk is None else tiles_tk
        ray = tiled(ray_b3n, tiles_tk)
        origin = None if origin_b3n is None else tiled(origin_b3n, tiles_tk)
        touched = touched_by_view(scene, ray) if origin is None else touched_by_rays(scene, origin, ray)
        near = torch.full((ray.shape[0] * ray.shape[1], ray.shape[3]), NO_HIT, device=ray.device)
        first = _pack(near, torch.zeros_like(number[:1]), mask)
        for (image, shape, tile), depth in _tiled(scene, touched, ray, origin):
            row = (image * ray.shape[1] + tile)[:, None].expand_as(depth)
            near.scatter_reduce_(0, row, depth, "amin")
            first.scatter_reduce_(0, row, _pack(depth, shape[:, None].int(), mask), "amin")
        for whole, part in ((best, near), (packed, first)):
            nearer = torch.empty_like(whole)
            nearer[:, tiles_tk.flatten()] = part.view(len(whole), -1)
            torch.minimum(whole, nearer, out=whole)
    sky = best >= FAR_M
    return best.clamp_max(FAR_M), torch.where(sky, planes.stop, packed & mask).long()


def _depth_of(kind: str, cut: Tensor, start: Frame, direction: Frame) -> Tensor:
    """Return where rays meet shapes of one kind; beyond ``FAR_M`` where they do not."""
    if kind not in SOLID_TESTS:
        return _card(kind, cut, start, direction, FAR_M)
    near, far, miss = SOLID_TESTS[kind](start, direction)
    hidden = torch.maximum(near - far, -near).clamp_min(0)
    depth = torch.add(near, hidden, alpha=NO_HIT)
    return depth if miss is None else torch.add(depth, miss, alpha=NO_HIT)


def _dense(scene: Scene, ray_b3n: Tensor, origin_b3n: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield runs of shapes and their depth (B, P, N) at every pixel."""
    (unit, centre), cuts = _units(scene), _cuts_of(scene)
    for kind, run in _runs_of(scene):
        direction = _into(unit[:, run], ray_b3n).unbind(1)
        start = -centre[:, run].transpose(1, 2)[..., None]
        if origin_b3n is not None:
            start = _into(unit[:, run], origin_b3n) + start
        yield run, _depth_of(kind, cuts[:, run], start.unbind(1), direction)


def _tiled(
    scene: Scene, touched_bpt: Tensor, ray_bt3k: Tensor, origin_bt3k: Tensor | None
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]:
    """Yield image, shape and tile of pairs and their depth (L, K)."""
    (unit, centre), cuts = _units(scene), _cuts_of(scene)
    for kind, (image, shape, tile) in pairs(scene, touched_bpt):
        into = unit[image, shape]
        start = -centre[image, shape][..., None]
        if origin_bt3k is not None:
            start = torch.baddbmm(start, into, origin_bt3k[image, tile])
        direction = torch.bmm(into, ray_bt3k[image, tile]).unbind(1)
        yield (image, shape, tile), _depth_of(kind, cuts[image, shape], start.unbind(1), direction)


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


def _pack(depth: Tensor, number: Tensor, mask: int) -> Tensor:
    """Return the bits of positive depth, which sort as it does, with the shape's number in the lowest ones."""
    return (depth.view(torch.int32) & ~mask) | number


def occlusion(
    scene: Scene, point_b3n: Tensor, to_light_b3n: Tensor, lit_bn: Tensor, tiles_tk: Tensor | None = None
) -> Tensor:
    """Return (B, N) metres that the way from a point to the light runs inside the thickest shape on it.

    A card counts as ``CARD_M``, glass not at all; hills throw no shadow. Points where ``lit_bn`` is not true are in
    shadow anyway: nothing, or 0, is looked for there.
    """
    unit, centre = _units(scene)
    cuts, length = _cuts_of(scene), to_light_b3n.square().sum(1).sqrt()
    clear = 1 - scene.material("glass", slice(sum(scene.counts))) * ("second" in scene.passes)
    if torch.compiler.is_compiling():
        metres = torch.zeros_like(length)
        for kind, run in _runs_of(scene):
            origin = (_into(unit[:, run], point_b3n) - centre[:, run].transpose(1, 2)[..., None]).unbind(1)
            direction = _into(unit[:, run], to_light_b3n).unbind(1)
            inside = _inside(kind, cuts[:, run], clear[:, run, None], origin, direction, length[:, None])
            metres = metres.maximum(inside.amax(1))
        return metres
    tiles_tk = strips(point_b3n.shape[2], point_b3n.device) if tiles_tk is None else tiles_tk
    point, toward, long = (tiled(v, tiles_tk) for v in (point_b3n, to_light_b3n, length[:, None]))
    touched = touched_by_light(scene, point) & lit_bn[:, tiles_tk].any(-1)[:, None]
    most = torch.zeros(point.shape[0] * point.shape[1], point.shape[3], device=point.device)
    for kind, (image, shape, tile) in pairs(scene, touched):
        into = unit[image, shape]
        origin = torch.baddbmm(centre[image, shape][..., None], into, point[image, tile], beta=-1).unbind(1)
        direction = torch.bmm(into, toward[image, tile]).unbind(1)
        reach = long[image, tile, 0]
        inside = _inside(kind, cuts[image, shape], clear[image, shape][:, None], origin, direction, reach)
        most.scatter_reduce_(0, (image * point.shape[1] + tile)[:, None].expand_as(inside), inside, "amax")
    metres = torch.zeros_like(length)
    metres[:, tiles_tk.flatten()] = most.view(len(metres), -1)
    return metres


def _inside(kind: str, cut: Tensor, clear: Tensor, origin: Frame, direction: Frame, length: Tensor) -> Tensor:
    """Return metres that the way to the light runs inside shapes, at least 0."""
    if kind not in SOLID_TESTS:
        return (_card(kind, cut, origin, direction, 1.0) < NO_HIT) * CARD_M
    near, far, _ = SOLID_TESTS[kind](origin, direction)
    return (far.clamp_max(1) - near.clamp_min(0)).clamp_min(0) * clear * length
